-- When somebody last asked for the file by a command of ddr. That is use whatever else was opened at the
-- time: a search through everything (bursts, in `meta`) takes nothing from it.
ALTER TABLE used ADD COLUMN asked_s INTEGER;
ALTER TABLE used ADD COLUMN asked_ns INTEGER;
