"""The `tamatar-auth` command line. Command groups are imported when they are used."""
