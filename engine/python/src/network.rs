//! A guest's network.

use gasang_network::{Broken, Ends, Options, Policy};
use pyo3::exceptions::{PyConnectionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::ffi::c_int;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// A connection: the guest's port, its peer's address and port, the byte that the guest awaits.
type Connection = (u16, [u8; 4], u16, u32);

/// A network in user mode for one guest. Every method may be called from any thread.
#[pyclass(frozen, module = "gasang._engine")]
pub struct Network {
    inner: Mutex<Option<gasang_network::Network>>,
    /// Readable when `run` has something to do; it is closed with the network.
    #[pyo3(get)]
    descriptor: c_int,
}

impl Network {
    /// Do something with it without the GIL.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        act: impl Send + FnOnce(&mut gasang_network::Network) -> T,
    ) -> PyResult<T> {
        py.detach(|| {
            // What a thread left behind that panicked is as whole as any other: frames were lost.
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.as_mut().map(act)
        })
        .ok_or_else(|| PyConnectionError::new_err("the network is gone"))
    }
}

#[pymethods]
impl Network {
    /// `allow`: rules of whom the guest may reach. `mac`: the guest's. `resolver`: the host's name server,
    /// "ADDRESS:PORT". `seed`: what numbers that nobody should guess begin with. Raises `ValueError`, `OSError`.
    #[new]
    fn new(allow: Vec<String>, mac: [u8; 6], resolver: Option<&str>, seed: u64) -> PyResult<Self> {
        let policy = Policy::parse(&allow).map_err(PyValueError::new_err)?;
        let resolver = resolver.map(address_of).transpose()?;
        let inner = gasang_network::Network::new(Options { policy, guest: mac, resolver, seed })?;
        let descriptor = inner.descriptor();
        Ok(Self { inner: Mutex::new(Some(inner)), descriptor })
    }

    /// Take a frame of the guest's; whether there is room for another. This and what follows raises
    /// `ConnectionError` if the network is closed.
    fn take(&self, py: Python<'_>, frame: &[u8]) -> PyResult<bool> {
        self.with(py, |network| {
            network.take(frame);
            network.has_room()
        })
    }

    /// The guest has this address from now on.
    fn set_mac(&self, py: Python<'_>, mac: [u8; 6]) -> PyResult<()> {
        self.with(py, |network| network.set_guest(mac))
    }

    /// Do what there is to do on the host's side; whether there is room for frames. Raises `OSError`.
    fn run(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.with(py, |network| network.run().map(|()| network.has_room()))??)
    }

    /// The next frame for the guest.
    fn give<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let frame = self.with(py, gasang_network::Network::give)?;
        Ok(frame.map(|frame| PyBytes::new(py, &frame)))
    }

    /// Take connections at "ADDRESS:PORT" of the host's to a port of the guest's; return where, for a port of 0.
    /// Raises `OSError`, `ValueError`.
    fn forward(&self, py: Python<'_>, address: &str, guest_port: u16) -> PyResult<String> {
        let address = address_of(address)?;
        Ok(self.with(py, |network| network.forward(address, guest_port))??.to_string())
    }

    /// Take no more connections there; false if none were taken. Raises `ValueError`.
    fn stop_forward(&self, py: Python<'_>, address: &str) -> PyResult<bool> {
        let address = address_of(address)?;
        self.with(py, |network| network.stop_forward(address))
    }

    /// Every open connection of the guest's: its port, its peer's address and port, the byte that it awaits.
    fn connections(&self, py: Python<'_>) -> PyResult<Vec<Connection>> {
        let found = self.with(py, |network| network.connections())?;
        Ok(found
            .iter()
            .map(|each| (each.ends.guest_port, each.ends.peer.0.octets(), each.ends.peer.1, each.awaited))
            .collect())
    }

    /// Tell the guest that such connections, of a network before this one, are broken.
    fn break_off(&self, py: Python<'_>, connections: Vec<Connection>) -> PyResult<()> {
        let broken: Vec<_> = connections
            .into_iter()
            .map(|(guest_port, address, port, awaited)| Broken {
                ends: Ends { guest_port, peer: (Ipv4Addr::from(address), port) },
                awaited,
            })
            .collect();
        self.with(py, |network| network.break_off(&broken))
    }

    /// Close every socket; the descriptor too.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.inner.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn address_of(text: &str) -> PyResult<SocketAddr> {
    text.parse().map_err(|_| PyValueError::new_err(format!("{text:?} is not ADDRESS:PORT")))
}
