//! When no processor of a machine can ever run again.

use crate::attention::Attention;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which processors only another one can wake: in HLT with interrupts disabled, or waiting for a start-up IPI.
#[derive(Debug)]
pub(crate) struct Standstill {
    stopped: Mutex<Vec<bool>>,
}

impl Standstill {
    /// After reset: all but the first wait.
    pub(crate) fn new(processors: usize) -> Standstill {
        Standstill { stopped: Mutex::new((0..processors).map(|index| index != 0).collect()) }
    }

    fn stopped(&self) -> MutexGuard<'_, Vec<bool>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Processor `processor` stops. True if all have stopped and none has been asked to go on: nobody is left to ask.
    pub(crate) fn stop(&self, processor: usize, attention: &[Attention]) -> bool {
        let mut stopped = self.stopped();
        if let Some(own) = stopped.get_mut(processor) {
            *own = true;
        }
        // Whoever asked is stopped by now, and raised what it asked for before.
        stopped.iter().all(|&stopped| stopped) && !attention.iter().any(Attention::is_raised)
    }

    /// It may go on. Before it takes what was raised, so that nobody finds it stopped without having been asked.
    pub(crate) fn go(&self, processor: usize) {
        if let Some(own) = self.stopped().get_mut(processor) {
            *own = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::CHIPSET;

    #[test]
    fn the_last_to_stop_finds_the_machine_at_a_standstill() {
        let attention = [Attention::default(), Attention::default()];
        let standstill = Standstill::new(2);
        standstill.go(1);
        assert!(!standstill.stop(0, &attention));
        assert!(standstill.stop(1, &attention));
        standstill.go(1);
        assert!(!standstill.stop(0, &attention));
    }

    #[test]
    fn a_processor_that_was_asked_to_go_on_is_not_at_a_standstill() {
        let attention = [Attention::default(), Attention::default()];
        let standstill = Standstill::new(2);
        attention[1].raise(CHIPSET);
        assert!(!standstill.stop(0, &attention));
    }
}
