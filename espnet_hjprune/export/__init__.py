"""Models for other runtimes: graphs, and directories that Hugging Face and s3prl load."""
