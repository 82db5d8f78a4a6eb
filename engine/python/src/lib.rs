//! The PyO3 face.
