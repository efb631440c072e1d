"""The version number: the package, the CMake project and the documents read it from here."""

__version__ = "0.1.0"
