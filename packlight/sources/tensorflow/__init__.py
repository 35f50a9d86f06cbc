"""SavedModel folders and `.tflite` files → Model: through ONNX, in an environment of their own, beside TensorFlow."""
