"""The ground floor of the study: errors, checks of files, the boundary of commands. It imports no other package."""
