CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    place INTEGER NOT NULL,            -- the order in which messages are received; a released one keeps its place
    queue TEXT NOT NULL,               -- channel, or prefix up to and including "!"
    room TEXT NOT NULL,                -- what it is counted under
    locals TEXT NOT NULL,              -- separated by blanks
    content BLOB NOT NULL,
    headers BLOB NOT NULL,
    size INTEGER NOT NULL,
    since REAL NOT NULL,
    expires REAL NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,
    lease TEXT,                        -- random, new for each delivery; NULL while it waits
    lease_end REAL,
    holder TEXT
);
CREATE INDEX IF NOT EXISTS message_queue ON message (queue, place) WHERE lease IS NULL;
CREATE INDEX IF NOT EXISTS message_room ON message (room) WHERE lease IS NULL;
CREATE INDEX IF NOT EXISTS message_lease ON message (lease_end) WHERE lease IS NOT NULL;
CREATE TABLE IF NOT EXISTS place (next INTEGER NOT NULL);
INSERT INTO place SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM place);
CREATE TABLE IF NOT EXISTS member (
    grp TEXT NOT NULL, channel TEXT NOT NULL, prefix TEXT NOT NULL, owner TEXT, added REAL NOT NULL,
    PRIMARY KEY (grp, channel)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ended (channel TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS process (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, label TEXT NOT NULL, opened REAL NOT NULL, lease_end REAL NOT NULL,
    load REAL NOT NULL DEFAULT 0, counters TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead (
    serial INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, queue TEXT NOT NULL, content BLOB NOT NULL,
    headers BLOB NOT NULL, size INTEGER NOT NULL, attempt INTEGER NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL
);
