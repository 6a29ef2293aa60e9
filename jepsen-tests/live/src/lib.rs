//! Clusters of real `saola-node` processes, each in a network namespace of its own, on a file system of its own, with a wall
//! clock of its own; clients call them while all of that fails, and the history is judged as in the simulation.
//!
//! It needs root, Linux, and a few Debian packages (`make setup`). What a machine cannot do is told and counted, never passed
//! over. Traffic goes over loopback devices and TUN devices of namespaces that it makes and removes; it never touches a clock, a
//! disk or a network that is not its own.
//!
//! - [`round`]: one cluster from its first start to the judgement;
//! - [`workload`]: what the clients do; [`verdict`]: what is read back, and whether the run was a test at all;
//! - [`faults`]: the kinds of faults; [`nemesis`]: does them, and undoes them;
//! - [`last_day`]: on two sites, how a round ends: one goes on by force, and the other comes back;
//! - [`machines`]: what nodes run on: [`network`], [`disks`], clocks;
//! - [`scan`]: searches raw disks for what must stand nowhere in clear;
//! - [`command`]: the command `saola`, as an operator calls it.

pub mod command;
pub mod disks;
pub mod faults;
pub mod last_day;
pub mod machines;
pub mod nemesis;
pub mod network;
pub mod round;
pub mod scan;
pub mod verdict;
pub mod workload;
