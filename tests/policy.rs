//! Policies: the shipped ones do what their headers say, on small examples and on a whole home.

mod home;
mod plans;
mod shipped;
mod slices;
