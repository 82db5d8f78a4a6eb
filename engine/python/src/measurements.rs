//! What a profile measured, as a Python value.

use gasang_vm::Measured;
use pyo3::prelude::*;
use std::collections::HashMap;

/// What was measured of one processor. Times are in nanoseconds of the host's.
#[pyclass(frozen, get_all, module = "gasang._engine")]
pub struct Measurements {
    phases: HashMap<&'static str, (u64, u64)>,
    interpreted: Vec<(u64, String, u64, u64)>,
    samples: Vec<(u64, &'static str, u64)>,
    exits: Vec<(&'static str, u64, u64, u64)>,
    lost: u64,
}

impl From<gasang_vm::Measurements> for Measurements {
    fn from(all: gasang_vm::Measurements) -> Measurements {
        let pair = |each: Measured| (each.count, each.nanoseconds);
        let interpreted = all.interpreted.into_iter();
        let exits = all.exits.into_iter();
        Measurements {
            phases: all.phases.into_iter().map(|(name, each)| (name, pair(each))).collect(),
            interpreted: interpreted
                .map(|(address, form, each)| (address, form, each.count, each.nanoseconds))
                .collect(),
            samples: all.samples,
            exits: exits.map(|(exit, place, each)| (exit, place, each.count, each.nanoseconds)).collect(),
            lost: all.lost,
        }
    }
}

#[pymethods]
impl Measurements {
    fn __repr__(&self) -> String {
        let samples: u64 = self.samples.iter().map(|&(.., count)| count).sum();
        format!("<Measurements: {} phases, {samples} samples>", self.phases.len())
    }
}
