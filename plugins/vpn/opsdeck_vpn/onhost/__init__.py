"""What is carried to a gateway and runs there: no module of the console imports it, but for tests."""
