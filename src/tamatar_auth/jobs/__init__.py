"""Jobs that end by themselves or run beside a server: seeding and sweeping."""
