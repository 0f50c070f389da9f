//! On-demand access with a real guard: whoever touches a stub gets its content, waits, or gets an error.

mod budget;
mod churn;
mod cuts;
mod driven;
mod ended;
mod far;
mod folders;
mod kills;
mod left;
mod limits;
mod manager;
mod manners;
mod matrix;
mod order;
mod places;
mod races;
mod restart;
mod speed;
mod trouble;
mod users;
mod ways;
