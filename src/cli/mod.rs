//! Words on a terminal: arguments in, one engine call, its result printed.
//!
//! Promises the exit codes of docs/SEMANTICS.md, output on stdout and everything else on stderr.
//! Knows no store and no file format.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::base::error::Result;

pub mod ask;
pub mod checkout;
pub mod clone;
pub mod commit;
pub mod completions;
pub mod config;
pub mod daemon;
pub mod debug;
pub mod diff;
pub mod du;
pub mod far;
pub mod find;
pub mod fsck;
pub mod gc;
pub mod guard;
pub mod history;
pub mod init;
pub mod ls;
pub mod output;
pub mod pin;
pub mod ping;
pub mod policy;
pub mod progress;
pub mod prune;
pub mod rebuild;
pub mod recalls;
pub mod remote;
pub mod restore;
pub mod run;
pub mod serve;
pub mod service;
pub mod session;
pub mod stash;
pub mod status;
pub mod sync;
pub mod tier;
pub mod tour;
pub mod whereis;
pub mod why;
pub mod worker;

const AFTER_HELP: &str = "\
Exit codes: 0 ok, 1 failed, 2 usage, 3 some files had problems, 4 refused for safety,
5 corruption found, 10 no folder here, 11 locked, 13 store or peer unreachable, 130 interrupted.
Sizes are written 10MiB, durations 30d. An unknown `ddr foo` runs `ddr-foo` from PATH.";

/// Keep every file's name, size and date where you work; keep its bytes where there is room.
#[derive(Parser, Debug)]
#[command(name = "ddr", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(clap::Args, Debug, Clone)]
pub struct Global {
    /// Run as if started in this directory
    #[arg(short = 'C', long = "directory", global = true, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// One JSON object per line on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only problems and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// When to use colour: auto, always, never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: clap::ColorChoice,
    /// How long to wait for another ddr that works on the folder
    #[arg(long, global = true, value_name = "DURATION", default_value = "5s")]
    pub wait: String,
}

/// Commands, in the order in which a newcomer meets them.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Let ddr look after a directory
    Init(init::InitArgs),
    /// Make a folder from a store: the whole tree, as stubs
    Clone(clone::CloneArgs),
    /// Add, list, change or remove stores
    #[command(subcommand)]
    Remote(remote::RemoteCommand),
    /// Group stores into tiers: mirrors and bundles, near to far
    #[command(subcommand)]
    Tier(tier::TierCommand),
    /// Bring history and contents of all stores level
    Sync(sync::SyncArgs),
    /// Ask stores whether they answer, how fast, and how far they are behind
    Ping(ping::PingArgs),
    /// Place files on the stores and replace them by stubs
    Stash(stash::StashArgs),
    /// Bring the content of stubs back
    Checkout(checkout::CheckoutArgs),
    /// Keep files always on this device
    Pin(pin::PinArgs),
    /// Let pinned files go again
    Unpin(pin::UnpinArgs),
    /// Show or check policies, and what they would do
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Explain one file: last use, rule, copies, verdict
    Why(why::WhyArgs),
    /// Bring stubs back when they are opened; needs root
    Guard(guard::GuardArgs),
    /// Show who waits for which stub, or let one wait no longer
    Recalls(recalls::RecallsArgs),
    /// Record what changed and place it on a store
    #[command(alias = "increment")]
    Commit(commit::CommitArgs),
    /// Show what changed, and how much is local
    Status(status::StatusArgs),
    /// List files with residency and copies
    Ls(ls::LsArgs),
    /// Local against logical size
    Du(du::DuArgs),
    /// Show which stores have a file's content
    Whereis(whereis::WhereisArgs),
    /// Show recorded versions
    History(history::HistoryArgs),
    /// Show what changed since a commit, a version or a time
    Diff(diff::DiffArgs),
    /// Write an old version out again, or a directory as it was
    Restore(restore::RestoreArgs),
    /// Find files by content
    Find(find::FindArgs),
    /// Forget old versions, and free what they took
    Prune(prune::PruneArgs),
    /// Free what nothing refers to in the stores
    Gc(gc::GcArgs),
    /// Check the stores, and repair them
    Fsck(fsck::FsckArgs),
    /// Make every index anew from the objects
    Rebuild(rebuild::RebuildArgs),
    /// Read or change settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Look after all folders without being asked
    Daemon(daemon::DaemonArgs),
    /// Install or remove the systemd units of daemon and guard
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// See ddr at work in a temporary folder
    Tour(tour::TourArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Serve a store to a ddr on another machine, which starts this by itself
    #[command(hide = true)]
    Serve(serve::ServeArgs),
    /// Fill stubs of a folder for the guard, which starts this by itself
    #[command(hide = true)]
    Worker(worker::WorkerArgs),
    /// Facts for tests and bug reports
    #[command(subcommand)]
    Debug(debug::DebugCommand),
    /// `ddr-foo` from PATH
    #[command(external_subcommand)]
    External(Vec<OsString>),
}

/// Runs one command.
pub fn dispatch(session: &session::Session, command: &Command) -> Result<()> {
    match command {
        Command::Init(args) => init::run(session, args),
        Command::Clone(args) => clone::run(session, args),
        Command::Remote(command) => remote::run(session, command),
        Command::Tier(command) => tier::run(session, command),
        Command::Sync(args) => sync::run(session, args),
        Command::Ping(args) => ping::run(session, args),
        Command::Stash(args) => stash::run(session, args),
        Command::Checkout(args) => checkout::run(session, args),
        Command::Pin(args) => pin::run_pin(session, args),
        Command::Unpin(args) => pin::run_unpin(session, args),
        Command::Policy(command) => policy::run(session, command),
        Command::Why(args) => why::run(session, args),
        Command::Guard(args) => guard::run(session, args),
        Command::Recalls(args) => recalls::run(session, args),
        Command::Commit(args) => commit::run(session, args),
        Command::Status(args) => status::run(session, args),
        Command::Ls(args) => ls::run(session, args),
        Command::Du(args) => du::run(session, args),
        Command::Whereis(args) => whereis::run(session, args),
        Command::History(args) => history::run(session, args),
        Command::Diff(args) => diff::run(session, args),
        Command::Restore(args) => restore::run(session, args),
        Command::Find(args) => find::run(session, args),
        Command::Prune(args) => prune::run(session, args),
        Command::Gc(args) => gc::run(session, args),
        Command::Fsck(args) => fsck::run(session, args),
        Command::Rebuild(args) => rebuild::run(session, args),
        Command::Config(command) => config::run(session, command),
        Command::Daemon(args) => daemon::run(session, args),
        Command::Service(command) => service::run(session, command),
        Command::Tour(args) => tour::run(session, args),
        Command::Completions(args) => completions::run(session, args),
        Command::Serve(args) => serve::run(session, args),
        Command::Worker(args) => worker::run(session, args),
        Command::Debug(command) => debug::run(session, command),
        Command::External(args) => run::external(session, args),
    }
}
