"""What keeps a deployment in order: migrations, seeding, sweeping, the embedded PostgreSQL."""
