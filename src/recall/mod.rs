//! On-demand access: whoever opens a stub waits until its content is back.
//!
//! Two processes share the work. The guard (privileged, small) owns the kernel's event group and
//! answers every opener; the worker (the folder's owner, unprivileged) fills stubs and may die at any
//! time. `desk` decides who waits for what and is pure; `fanotify` is the kernel's event format;
//! `guard` answers the kernel's events, `clients` what is asked over sockets; `opener`, `handle` and `device`
//! are what they know of processes and files; `service` is the guard as a process; `worker`, `found` and `queue` are the other side.

pub mod clients;
pub mod desk;
pub mod device;
pub mod fanotify;
pub mod found;
pub mod guard;
pub mod handle;
pub mod handover;
pub mod homes;
pub mod opener;
pub mod probe;
pub mod queue;
pub mod service;
pub mod worker;
