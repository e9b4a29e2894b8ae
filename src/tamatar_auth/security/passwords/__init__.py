"""Password hashing: policy, peppers, bcrypt threads and the queue in front of them."""
