"""The files of an exported model: they are copied beside its weights, and need nothing of here."""
