"""Lets `python -m tamatar_auth` do what `tamatar-auth` does."""

from tamatar_auth.cli import main

if __name__ == "__main__":
    main()
