//! Who waits for which file, and whose turn it is: the guard's decisions, without its kernel.
//!
//! Promises that every event ends in exactly one answer, that nobody is let into a file while it is
//! held, and that what a dead worker had in hand is asked anew. Knows no descriptors, no processes
//! and no clock: events carry what the caller needs, time is an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Unbounded};

use super::handle::Birth;
use crate::base::id::FolderId;
use crate::local::guard::Standing;

/// Device and inode number.
pub type Inode = (u64, u64);
/// A connection to the guard.
pub type Client = u64;
/// Whose worker fills a file: its user's, of this folder, in this place (clones are folders of one id).
pub type Home = (u32, FolderId, usize);

/// An opener that waits.
#[derive(Debug)]
pub struct Ticket<E> {
    /// The file.
    pub inode: Inode,
    /// Whose worker is asked.
    pub home: Home,
    /// Who opens it.
    pub user: u32,
    /// When it came, in milliseconds.
    pub since: u64,
    /// Whether a worker has it in hand.
    pub asked: bool,
    /// What the caller needs to answer it.
    pub event: E,
}

#[derive(Debug)]
struct Marked {
    home: Home,
    birth: Birth,
    standing: Standing,
}

/// All marked files and all who wait.
#[derive(Debug)]
pub struct Desk<E> {
    // Ordered, so that it can be walked in slices, and smaller as soon as there is less in it.
    marked: BTreeMap<Inode, Marked>,
    /// How many of them each user has.
    of_user: HashMap<u32, usize>,
    /// Those of them that are unjudged.
    unjudged: BTreeSet<(Home, Inode)>,
    /// Where the walk over `marked` has come to, and how many were added since the last slice.
    walked: (Inode, usize),
    holders: HashMap<Inode, Vec<Client>>,
    tickets: BTreeMap<u64, Ticket<E>>,
    /// How many of them each user has.
    waits: HashMap<u32, usize>,
    /// Tickets that were given up while a worker had them in hand, until he answers.
    given_up: HashMap<u64, (Home, Inode)>,
    /// The numbers of both, by file: each event asks for its file's, however many others wait.
    wanted: BTreeSet<(Inode, u64)>,
    next: u64,
}

/// What is to be done with an event.
#[derive(PartialEq, Eq, Debug)]
pub enum Verdict<E> {
    /// Nothing is known about the file: answer yes.
    Allow(E),
    /// It waits under this number; a worker is to be asked if `true`.
    Wait(u64, bool),
}

impl<E> Default for Desk<E> {
    fn default() -> Self {
        Self {
            marked: BTreeMap::new(),
            of_user: HashMap::new(),
            unjudged: BTreeSet::new(),
            walked: ((0, 0), 0),
            holders: HashMap::new(),
            tickets: BTreeMap::new(),
            waits: HashMap::new(),
            given_up: HashMap::new(),
            wanted: BTreeSet::new(),
            next: 1,
        }
    }
}

impl<E> Desk<E> {
    /// How many files are marked.
    pub fn marked(&self) -> usize {
        self.marked.len()
    }

    /// How many files of a user are marked.
    pub fn marked_of(&self, user: u32) -> usize {
        self.of_user.get(&user).copied().unwrap_or(0)
    }

    /// A file is guarded from now on; with `holder` its openers wait for that client, else until it is judged.
    /// What was known of it: another file may have had its number before.
    pub fn mark(&mut self, inode: Inode, birth: Birth, home: Home, holder: Option<Client>) -> Standing {
        let known = self.unmark(inode).filter(|before| before.birth == birth).map(|before| before.standing);
        // Who holds it looks himself.
        let new = if holder.is_some() { Standing::Quiet } else { Standing::Unjudged };
        let standing = known.unwrap_or(new);
        self.marked.insert(inode, Marked { home, birth, standing });
        if standing == Standing::Unjudged {
            self.unjudged.insert((home, inode));
        }
        *self.of_user.entry(home.0).or_default() += 1;
        self.walked.1 += usize::from(known.is_none());
        if let Some(holder) = holder {
            self.holders.entry(inode).or_default().push(holder);
        }
        known.unwrap_or(Standing::New)
    }

    /// A worker has looked whether somebody had a file open for writing before it was guarded; what may be asked
    /// now. That nobody has any more is news at any time.
    pub fn judge(&mut self, inode: Inode, its: impl Fn(Home) -> bool, loud: bool) -> Vec<u64> {
        let Some(file) = self.marked.get_mut(&inode).filter(|file| its(file.home)) else { return Vec::new() };
        match loud {
            true if file.standing != Standing::Unjudged => return Vec::new(),
            true => file.standing = Standing::Loud,
            false => file.standing = Standing::Quiet,
        }
        self.unjudged.remove(&(file.home, inode));
        self.unasked_of(inode)
    }

    /// Whether somebody had it open for writing before it was guarded, and may still.
    pub fn is_loud(&self, inode: Inode) -> bool {
        self.standing(inode) == Some(Standing::Loud)
    }

    /// What is known of a file.
    pub fn look(&self, inode: Inode, birth: Birth) -> Standing {
        let known = self.marked.get(&inode).filter(|file| file.birth == birth);
        known.map_or(Standing::New, |file| file.standing)
    }

    fn standing(&self, inode: Inode) -> Option<Standing> {
        self.marked.get(&inode).map(|file| file.standing)
    }

    /// Whether no worker is to be asked about it yet.
    fn is_kept(&self, inode: Inode) -> bool {
        self.is_held(inode) || self.standing(inode) == Some(Standing::Unjudged)
    }

    fn unmark(&mut self, inode: Inode) -> Option<Marked> {
        let before = self.marked.remove(&inode)?;
        less(&mut self.of_user, before.home.0);
        self.unjudged.remove(&(before.home, inode));
        Some(before)
    }

    /// The next of all marked files, to be looked at whether they still are: so many that the walk keeps up
    /// with what is added, in the end, and so few that nobody notices.
    pub fn slice(&mut self) -> Vec<(Inode, Birth, Home)> {
        const LEAST: usize = 64;
        const MOST: usize = 512;
        let (from, added) = self.walked;
        let now = added.min((MOST - LEAST) / 2);
        let next = self.marked.range((Excluded(from), Unbounded)).take(LEAST + 2 * now);
        let slice: Vec<_> = next.map(|(inode, file)| (*inode, file.birth, file.home)).collect();
        // Behind the last it begins anew.
        self.walked = (slice.last().map_or((0, 0), |(inode, ..)| *inode), added - now);
        slice
    }

    /// Ends one hold; what may be asked now. `still` is false where the file is no stub any more.
    pub fn release(&mut self, inode: Inode, client: Client, still: bool) -> Vec<u64> {
        // Who holds nothing has nothing to let go.
        let Some(holders) = self.holders.get_mut(&inode) else { return Vec::new() };
        let Some(at) = holders.iter().position(|holder| *holder == client) else { return Vec::new() };
        holders.remove(at);
        if !holders.is_empty() {
            return Vec::new();
        }
        self.holders.remove(&inode);
        if !still {
            self.unmark(inode);
        }
        self.unasked_of(inode)
    }

    /// A file's openers need not wait any more.
    pub fn forget(&mut self, inode: Inode) {
        if !self.is_held(inode) {
            self.unmark(inode);
        }
    }

    /// Whether it is marked.
    pub fn knows(&self, inode: Inode) -> bool {
        self.marked.contains_key(&inode)
    }

    /// Whether somebody waits for it, or a worker is still at it.
    pub fn is_wanted(&self, inode: Inode) -> bool {
        self.numbers_of(inode).next().is_some()
    }

    /// Those who wait for it, or gave up while a worker is still at it.
    fn numbers_of(&self, inode: Inode) -> impl Iterator<Item = u64> {
        self.wanted.range((inode, 0)..=(inode, u64::MAX)).map(|(_, number)| *number)
    }

    /// Whether somebody holds it.
    pub fn is_held(&self, inode: Inode) -> bool {
        self.holders.contains_key(&inode)
    }

    /// How many openers of a user wait.
    pub fn waits_of(&self, user: u32) -> usize {
        self.waits.get(&user).copied().unwrap_or(0)
    }

    /// How many holds these clients have.
    pub fn holds_of(&self, clients: &[Client]) -> usize {
        self.holders.values().flatten().filter(|client| clients.contains(client)).count()
    }

    /// A user opens a file.
    pub fn event(&mut self, inode: Inode, user: u32, now: u64, event: E) -> Verdict<E> {
        let Some(home) = self.marked.get(&inode).map(|file| file.home) else { return Verdict::Allow(event) };
        let free = !self.is_kept(inode);
        let number = self.next;
        self.next += 1;
        self.tickets.insert(number, Ticket { inode, home, user, since: now, asked: false, event });
        self.wanted.insert((inode, number));
        *self.waits.entry(user).or_default() += 1;
        Verdict::Wait(number, free)
    }

    /// Notes that a worker has it in hand, and yields what to show him.
    pub fn ask(&mut self, number: u64) -> Option<&mut Ticket<E>> {
        let kept = self.tickets.get(&number).is_some_and(|ticket| self.is_kept(ticket.inode));
        let ticket = self.tickets.get_mut(&number).filter(|ticket| !kept && !ticket.asked)?;
        ticket.asked = true;
        Some(ticket)
    }

    /// Puts a ticket back that no worker could be shown.
    pub fn unask(&mut self, number: u64) {
        if let Some(ticket) = self.tickets.get_mut(&number) {
            ticket.asked = false;
        }
    }

    /// Ends a ticket: the caller answers its event. `None` if that was done already.
    pub fn end(&mut self, number: u64) -> Option<Ticket<E>> {
        let ticket = self.tickets.remove(&number)?;
        less(&mut self.waits, ticket.user);
        self.wanted.remove(&(ticket.inode, number));
        Some(ticket)
    }

    /// Ends a ticket before its worker has answered: the caller answers its event.
    pub fn give_up(&mut self, number: u64) -> Option<Ticket<E>> {
        let ticket = self.end(number)?;
        if ticket.asked {
            self.given_up.insert(number, (ticket.home, ticket.inode));
            self.wanted.insert((ticket.inode, number));
        }
        Some(ticket)
    }

    /// A worker has answered: yields the ticket if it is his and was not given up.
    pub fn answered(&mut self, number: u64, home: Home) -> Option<Ticket<E>> {
        if let Some((_, inode)) = self.given_up.get(&number).filter(|(theirs, _)| *theirs == home) {
            self.wanted.remove(&(*inode, number));
            self.given_up.remove(&number);
        }
        let his = self.tickets.get(&number).is_some_and(|ticket| ticket.home == home);
        his.then(|| self.end(number)).flatten()
    }

    /// One ticket.
    pub fn ticket(&self, number: u64) -> Option<&Ticket<E>> {
        self.tickets.get(&number)
    }

    /// The same, to note something on it.
    pub fn ticket_mut(&mut self, number: u64) -> Option<&mut Ticket<E>> {
        self.tickets.get_mut(&number)
    }

    /// Everyone who waits.
    pub fn waiting(&self) -> impl Iterator<Item = (u64, &Ticket<E>)> {
        self.tickets.iter().map(|(number, ticket)| (*number, ticket))
    }

    /// Tickets that have waited longer at `now` than `limit` says for their home.
    pub fn overdue(&self, now: u64, limit: impl Fn(Home) -> u64) -> Vec<u64> {
        let late = |ticket: &Ticket<E>| now.saturating_sub(ticket.since) > limit(ticket.home);
        self.waiting().filter(|(_, ticket)| late(ticket)).map(|(number, _)| number).collect()
    }

    /// A client is gone, and its holds with it: the inodes it held, and what may be asked now.
    pub fn gone(&mut self, client: Client) -> (Vec<Inode>, Vec<u64>) {
        let mut freed = Vec::new();
        self.holders.retain(|inode, holders| {
            holders.retain(|holder| *holder != client);
            if holders.is_empty() {
                freed.push(*inode);
            }
            !holders.is_empty()
        });
        let unasked = freed.iter().flat_map(|inode| self.unasked_of(*inode)).collect();
        (freed, unasked)
    }

    /// A worker is gone: nothing is in hand any more. What it did not judge is for the next to look at once
    /// somebody wants it: it may never come across it again, moved away as it may be.
    pub fn worker_gone(&mut self, home: Home) {
        let theirs = self.tickets.values_mut().filter(|ticket| ticket.home == home);
        theirs.for_each(|ticket| ticket.asked = false);
        let Self { given_up, wanted, .. } = self;
        given_up.retain(|number, (theirs, inode)| *theirs != home || !wanted.remove(&(*inode, *number)));
        let unjudged = self.unjudged.range((home, (0, 0))..=(home, (u64::MAX, u64::MAX)));
        for inode in unjudged.map(|(_, inode)| *inode).collect::<Vec<_>>() {
            self.judge(inode, |_| true, true);
        }
    }

    /// What a new worker is to be asked.
    pub fn for_worker(&self, home: Home) -> Vec<u64> {
        let theirs = self.waiting().filter(|(_, ticket)| ticket.home == home);
        theirs.filter(|(_, ticket)| self.is_due(ticket)).map(|(number, _)| number).collect()
    }

    /// What may be asked about a file.
    pub fn unasked_of(&self, inode: Inode) -> Vec<u64> {
        let due = |number: &u64| self.ticket(*number).is_some_and(|ticket| self.is_due(ticket));
        self.numbers_of(inode).filter(due).collect()
    }

    fn is_due(&self, ticket: &Ticket<E>) -> bool {
        !ticket.asked && !self.is_kept(ticket.inode)
    }
}

/// One less of a user's; who has none is not listed.
fn less(counts: &mut HashMap<u32, usize>, user: u32) {
    let left = counts.get(&user).map_or(0, |count| count.saturating_sub(1));
    match left {
        0 => counts.remove(&user),
        _ => counts.insert(user, left),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Home = (7, FolderId([1; 16]), 0);
    const FILE: Inode = (1, 2);
    const ONE: Birth = Birth::UNKNOWN;

    /// A desk with these files, which nobody had open.
    fn marked(files: &[Inode]) -> Desk<char> {
        let mut desk = Desk::default();
        for file in files {
            desk.mark(*file, ONE, HOME, None);
            desk.judge(*file, |home| home == HOME, false);
        }
        desk
    }

    #[test]
    fn openers_wait_until_it_is_known_who_had_it_open_before_and_that_is_kept() {
        let mut desk = Desk::default();
        let standing = |desk: &mut Desk<char>| desk.mark(FILE, ONE, HOME, None);
        assert_eq!([standing(&mut desk), standing(&mut desk)], [Standing::New, Standing::Unjudged]);
        assert_eq!(desk.event(FILE, 0, 0, 'a'), Verdict::Wait(1, false));
        assert!(desk.judge(FILE, |_| false, false).is_empty() && desk.ask(1).is_none());
        assert_eq!(desk.judge(FILE, |home| home == HOME, true), [1]);
        desk.worker_gone(HOME);
        assert_eq!((standing(&mut desk), desk.is_loud(FILE)), (Standing::Loud, true));
        desk.judge(FILE, |_| true, false);
        // Whoever writes now has waited.
        desk.judge(FILE, |_| true, true);
        assert_eq!((standing(&mut desk), desk.is_loud(FILE)), (Standing::Quiet, false));
    }

    #[test]
    fn what_a_dead_worker_did_not_judge_is_looked_at_by_the_next() {
        let (mut desk, other) = (marked(&[(1, 9)]), (8, HOME.1, 0));
        desk.mark(FILE, ONE, HOME, None);
        desk.mark((1, 3), ONE, other, None);
        assert_eq!(desk.event(FILE, 0, 0, 'a'), Verdict::Wait(1, false));
        desk.worker_gone(HOME);
        assert_eq!((desk.for_worker(HOME), desk.is_loud(FILE), desk.is_loud((1, 9))), (vec![1], true, false));
        assert!(desk.ask(1).is_some());
        assert_eq!(desk.look((1, 3), ONE), Standing::Unjudged);
        // What is not there any more is nobody's.
        desk.forget((1, 3));
        desk.worker_gone(other);
        assert!(!desk.knows((1, 3)) && desk.unjudged.is_empty());
    }

    #[test]
    fn an_unknown_file_is_nobodys_business() {
        assert_eq!(Desk::default().event(FILE, 0, 0, 'a'), Verdict::Allow('a'));
    }

    #[test]
    fn openers_of_a_held_file_wait_and_are_asked_about_when_it_is_released() {
        let mut desk = Desk::default();
        desk.mark(FILE, ONE, HOME, Some(7));
        assert_eq!(desk.event(FILE, 0, 0, 'a'), Verdict::Wait(1, false));
        assert!(desk.ask(1).is_none() && desk.for_worker(HOME).is_empty());
        assert_eq!(desk.release(FILE, 7, true), [1]);
        assert!(desk.ask(1).is_some());
        assert_eq!(desk.end(1).map(|ticket| ticket.event), Some('a'));
        assert!(desk.end(1).is_none());
    }

    #[test]
    fn a_hold_ends_with_its_client_and_two_holds_with_the_second() {
        let mut desk = Desk::default();
        desk.mark(FILE, ONE, HOME, Some(7));
        desk.mark(FILE, ONE, HOME, Some(8));
        desk.event(FILE, 0, 0, 'a');
        assert_eq!(desk.gone(7), (vec![], vec![]));
        assert_eq!(desk.gone(8), (vec![FILE], vec![1]));
    }

    #[test]
    fn who_does_not_hold_a_file_cannot_let_it_go() {
        let mut desk = marked(&[FILE]);
        assert!(desk.release(FILE, 9, false).is_empty());
        assert_eq!(desk.event(FILE, 0, 0, 'a'), Verdict::Wait(1, true));
        assert!(desk.is_wanted(FILE) && !desk.is_wanted((0, 0)));
    }

    #[test]
    fn a_file_whose_opener_gave_up_is_wanted_until_its_worker_answers_or_dies() {
        let mut desk = marked(&[FILE]);
        for ends in [
            |desk: &mut Desk<char>, number| {
                desk.answered(number, HOME);
            },
            |desk: &mut Desk<char>, _| desk.worker_gone(HOME),
        ] {
            let Verdict::Wait(number, true) = desk.event(FILE, 0, 0, 'a') else { panic!("it is marked") };
            assert!(desk.ask(number).is_some());
            assert!(desk.give_up(number).is_some() && desk.is_wanted(FILE));
            assert!(desk.answered(number, (9, HOME.1, 0)).is_none() && desk.is_wanted(FILE));
            ends(&mut desk, number);
            assert!(!desk.is_wanted(FILE) && desk.wanted.is_empty());
        }
    }

    #[test]
    fn only_its_own_worker_answers_a_ticket() {
        let mut desk = marked(&[FILE]);
        desk.event(FILE, 0, 0, 'a');
        assert!(desk.answered(1, (9, HOME.1, 0)).is_none());
        assert_eq!(desk.answered(1, HOME).map(|ticket| ticket.event), Some('a'));
    }

    #[test]
    fn each_home_has_a_deadline_of_its_own() {
        let (mut desk, other) = (marked(&[FILE, (1, 3)]), (8, HOME.1, 0));
        desk.mark((1, 3), ONE, other, None);
        desk.event(FILE, 0, 5, 'a');
        desk.event((1, 3), 0, 5, 'b');
        let limit = |home: Home| if home == HOME { 10 } else { 20 };
        assert!(desk.overdue(15, limit).is_empty());
        assert_eq!(desk.overdue(16, limit), [1]);
        assert_eq!(desk.overdue(26, limit), [1, 2]);
    }

    #[test]
    fn what_a_dead_worker_had_in_hand_is_asked_anew() {
        let mut desk = marked(&[FILE]);
        assert_eq!(desk.event(FILE, 0, 0, 'a'), Verdict::Wait(1, true));
        assert!(desk.ask(1).is_some());
        assert!(desk.ask(1).is_none());
        desk.worker_gone(HOME);
        assert_eq!(desk.for_worker(HOME), [1]);
        assert!(desk.ask(1).is_some());
    }

    #[test]
    fn a_file_that_is_full_again_is_forgotten_but_not_while_it_is_held() {
        let mut desk = Desk::default();
        desk.mark(FILE, ONE, HOME, Some(7));
        desk.forget(FILE);
        assert_eq!(desk.marked(), 1);
        desk.release(FILE, 7, false);
        assert_eq!(desk.marked(), 0);
        assert_eq!(desk.event(FILE, 0, 0, 'a'), Verdict::Allow('a'));
    }

    #[test]
    fn another_file_of_the_same_number_is_new() {
        let (mut desk, other) = (Desk::<char>::default(), Birth::of_bytes(1, &[7; 8]));
        for birth in [ONE, other] {
            assert_eq!(desk.mark(FILE, birth, HOME, None), Standing::New);
            assert_ne!(desk.mark(FILE, birth, HOME, None), Standing::New);
        }
        assert_eq!((desk.marked(), desk.marked_of(HOME.0), desk.marked_of(9)), (1, 1, 0));
        desk.forget(FILE);
        assert_eq!((desk.marked(), desk.marked_of(HOME.0)), (0, 0));
    }

    #[test]
    fn what_each_user_has_is_counted() {
        let mut desk = Desk::default();
        desk.mark(FILE, ONE, HOME, Some(7));
        desk.mark((1, 3), ONE, HOME, Some(8));
        assert_eq!((desk.holds_of(&[7, 8]), desk.holds_of(&[8]), desk.holds_of(&[])), (2, 1, 0));
        for event in ['a', 'b', 'c'] {
            desk.event(FILE, 5, 0, event);
        }
        desk.event(FILE, 6, 0, 'd');
        assert_eq!((desk.waits_of(5), desk.waits_of(6)), (3, 1));
        assert!(desk.end(1).is_some() && desk.give_up(2).is_some() && desk.answered(3, HOME).is_some());
        assert_eq!((desk.waits_of(5), desk.waits_of(6)), (0, 1));
    }

    #[test]
    fn a_walk_in_slices_sees_every_marked_file_again_and_again() {
        let mut desk = Desk::<char>::default();
        assert!((0..1000).all(|i| desk.mark((1, i), ONE, HOME, None) == Standing::New));
        let mut round = || -> Vec<Vec<_>> {
            std::iter::from_fn(|| Some(desk.slice())).take_while(|slice| !slice.is_empty()).collect()
        };
        // It keeps up with what is added, and is calm once it has.
        for longest in [512, 512, 64] {
            let slices = round();
            assert!(slices.iter().flatten().map(|((_, ino), ..)| *ino).eq(0..1000));
            assert_eq!(slices.iter().map(Vec::len).max(), Some(longest));
        }
    }
}
