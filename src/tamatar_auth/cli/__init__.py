"""The command line `tamatar-auth`. A command's modules are imported when the command runs."""
