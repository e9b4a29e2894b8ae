"""What calling services import: `pip install tamatar-auth` brings all that it needs."""
