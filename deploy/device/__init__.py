"""Programs that run an exported file without this project; `deploy.export.kit` copies them beside the file.

They import nothing of the project.
"""
