//! High and low water: how much must go when room is short.

use super::value::{Level, Vessel};

/// The levels in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Water {
    /// What is measured.
    pub of: Vessel,
    /// Above this, stashing begins.
    pub high: Level,
    /// And goes on down to this.
    pub low: Level,
}

/// What was measured, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// All there is.
    pub total: u64,
    /// In use.
    pub used: u64,
}

impl Room {
    /// Hundredths in use, rounded up: never less full than it is.
    pub fn percent(&self) -> u64 {
        (u128::from(self.used) * 100).div_ceil(u128::from(self.total.max(1))) as u64
    }
}

impl Water {
    /// Bytes that must go; none while the room is not above high water.
    pub fn excess(&self, room: &Room) -> u64 {
        let high = self.high.of(room.total);
        if room.used <= high { 0 } else { room.used - self.low.of(room.total).min(high) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_below_high_water_and_all_down_to_low_above_it() {
        let water = Water { of: Vessel::Disk, high: Level::Percent(90), low: Level::Percent(75) };
        let excess = |used| water.excess(&Room { total: 1000, used });
        assert_eq!((excess(900), excess(901), excess(1000)), (0, 151, 250));
        let free = Water { of: Vessel::Disk, high: Level::Free(100), low: Level::Free(300) };
        assert_eq!(free.excess(&Room { total: 1000, used: 950 }), 250);
        let budget = Water { of: Vessel::Budget(500), high: Level::Percent(100), low: Level::Used(400) };
        assert_eq!(budget.excess(&Room { total: 500, used: 800 }), 400);
    }
}
