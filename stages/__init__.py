"""What is computed: one module for each stage, which reads its inputs and writes its artifact."""
