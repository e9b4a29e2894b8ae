"""Jobs that commands run, or that run beside a server: seeding and sweeping."""
