BEGIN TRANSACTION;
CREATE TABLE achievements (
	user_id VARCHAR(128) NOT NULL, 
	achievement_id VARCHAR(500) NOT NULL, 
	achievement_name VARCHAR(500), 
	xp_amount BIGINT NOT NULL, 
	unlocked_ms BIGINT, 
	PRIMARY KEY (user_id, achievement_id)
)
 WITHOUT ROWID

;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0010');
CREATE TABLE applications (
	user_id VARCHAR(128) NOT NULL, 
	job_id VARCHAR(500) NOT NULL, 
	company_name VARCHAR(500), 
	position VARCHAR(500), 
	status VARCHAR(500), 
	applied_ms BIGINT, 
	updated_ms BIGINT, 
	PRIMARY KEY (user_id, job_id)
)
 WITHOUT ROWID

;
CREATE TABLE attempts (
	id INTEGER NOT NULL, 
	event_id VARCHAR(100) NOT NULL, 
	number INTEGER NOT NULL, 
	failed_ms BIGINT NOT NULL, 
	error TEXT NOT NULL, 
	error_class VARCHAR(200) NOT NULL, 
	path TEXT, 
	outcome VARCHAR(10) NOT NULL, part TEXT, trace TEXT, 
	PRIMARY KEY (id)
);
CREATE TABLE challenges (
	user_id VARCHAR(128) NOT NULL, 
	challenge_id VARCHAR(500) NOT NULL, 
	title VARCHAR(500), 
	description VARCHAR(5000), 
	available_ms BIGINT, 
	completed_ms BIGINT, 
	PRIMARY KEY (user_id, challenge_id)
)
 WITHOUT ROWID

;
CREATE TABLE daily_xp (
	day_ms BIGINT NOT NULL, 
	xp BIGINT NOT NULL, 
	PRIMARY KEY (day_ms)
)
 WITHOUT ROWID

;
CREATE TABLE dead_letters (
	id INTEGER NOT NULL, 
	identity VARCHAR(100) NOT NULL, 
	topic VARCHAR(249) NOT NULL, 
	partition INTEGER NOT NULL, 
	"offset" BIGINT NOT NULL, 
	appended_ms BIGINT NOT NULL, 
	event_id VARCHAR(100) NOT NULL, 
	type VARCHAR(100), 
	user_id VARCHAR(128), 
	error TEXT NOT NULL, 
	error_class VARCHAR(200) NOT NULL, 
	path TEXT, 
	attempts INTEGER NOT NULL, 
	first_failed_ms BIGINT NOT NULL, 
	died_ms BIGINT NOT NULL, 
	"key" BLOB, 
	value BLOB, 
	headers BLOB NOT NULL, 
	edited BLOB, 
	repeats_below BIGINT, 
	redrives INTEGER NOT NULL, 
	state VARCHAR(10) NOT NULL, 
	reason TEXT, part TEXT, trace TEXT, done TEXT, 
	PRIMARY KEY (id), 
	UNIQUE (identity, topic, partition, "offset")
);
CREATE TABLE epoch (
	id INTEGER NOT NULL, 
	name VARCHAR(36) NOT NULL, 
	revision VARCHAR(32), 
	works_from VARCHAR(32), 
	is_outdated BOOLEAN, 
	PRIMARY KEY (id)
);
INSERT INTO "epoch" VALUES(1,'027405c8-b90a-490e-b383-a468d3922484','0010','0010',NULL);
CREATE TABLE events (
	seq INTEGER NOT NULL, 
	id VARCHAR(100) NOT NULL, 
	outcome VARCHAR(10) NOT NULL, 
	topic VARCHAR(249) NOT NULL, 
	partition INTEGER NOT NULL, 
	"offset" BIGINT NOT NULL, 
	type VARCHAR(100), 
	user_id VARCHAR(128), 
	time_ms BIGINT NOT NULL, 
	received_ms BIGINT NOT NULL, 
	caused_by VARCHAR(100), 
	body TEXT NOT NULL, 
	PRIMARY KEY (seq), 
	UNIQUE (id)
);
CREATE TABLE "forgotten_dead_letters" (
	identity VARCHAR(100) NOT NULL, 
	topic VARCHAR(249) NOT NULL, 
	partition INTEGER NOT NULL, 
	"offset" BIGINT NOT NULL, 
	event_id VARCHAR(100) NOT NULL, 
	repeats_below BIGINT, 
	died_ms BIGINT NOT NULL, 
	PRIMARY KEY (identity, topic, partition, "offset")
);
CREATE TABLE learning (
	user_id VARCHAR(128) NOT NULL, 
	resource_id VARCHAR(500) NOT NULL, 
	title VARCHAR(500), 
	resource_type VARCHAR(500), 
	progress FLOAT NOT NULL, 
	started_ms BIGINT, 
	completed_ms BIGINT, 
	PRIMARY KEY (user_id, resource_id)
)
 WITHOUT ROWID

;
CREATE TABLE minute_counts (
	minute_ms BIGINT NOT NULL, 
	type VARCHAR(100) NOT NULL, 
	count BIGINT NOT NULL, 
	PRIMARY KEY (minute_ms, type)
)
 WITHOUT ROWID

;
CREATE TABLE minutes (
	minute_ms BIGINT NOT NULL, 
	processed BIGINT NOT NULL, 
	retrying BIGINT NOT NULL, 
	dead BIGINT NOT NULL, 
	lag_messages BIGINT NOT NULL, 
	lag_seconds FLOAT NOT NULL, 
	PRIMARY KEY (minute_ms)
);
CREATE TABLE notifications (
	user_id VARCHAR(128) NOT NULL, 
	notification_id VARCHAR(500) NOT NULL, 
	notification_type VARCHAR(500), 
	title VARCHAR(500), 
	message VARCHAR(5000), 
	sent_ms BIGINT, 
	read_ms BIGINT, 
	PRIMARY KEY (user_id, notification_id)
)
 WITHOUT ROWID

;
CREATE TABLE outgoing (
	id VARCHAR(200) NOT NULL, 
	process VARCHAR(100) NOT NULL, 
	created_ms BIGINT NOT NULL, 
	topic VARCHAR(249) NOT NULL, 
	"key" BLOB, 
	value BLOB, 
	headers BLOB NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE "parked" (
	event_id VARCHAR(100) NOT NULL, 
	identity VARCHAR(64) NOT NULL, 
	topic VARCHAR(249) NOT NULL, 
	partition INTEGER NOT NULL, 
	"offset" BIGINT NOT NULL, 
	"key" BLOB, 
	value BLOB, 
	headers BLOB NOT NULL, 
	appended_ms BIGINT NOT NULL, 
	user_id VARCHAR(128) NOT NULL, 
	type VARCHAR(100) NOT NULL, 
	attempts INTEGER NOT NULL, 
	error TEXT, 
	error_class VARCHAR(200), 
	path TEXT, 
	first_failed_ms BIGINT, 
	next_ms BIGINT, 
	part TEXT, 
	trace TEXT, 
	done TEXT, 
	PRIMARY KEY (event_id)
);
CREATE TABLE positions (
	identity VARCHAR(64) NOT NULL, 
	topic VARCHAR(249) NOT NULL, 
	partition INTEGER NOT NULL, 
	next BIGINT NOT NULL, 
	PRIMARY KEY (identity, topic, partition)
);
CREATE TABLE processes (
	id VARCHAR(100) NOT NULL, 
	host VARCHAR(255) NOT NULL, 
	pid INTEGER NOT NULL, 
	heartbeat_ms BIGINT NOT NULL, 
	consumer TEXT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE "service" (
	id INTEGER NOT NULL, 
	wanted VARCHAR(10), 
	generation INTEGER NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "service" VALUES(1,NULL,0);
CREATE TABLE user_stats (
	user_id VARCHAR(128) NOT NULL, 
	xp BIGINT NOT NULL, 
	level BIGINT NOT NULL, 
	missions_started BIGINT NOT NULL, 
	missions_completed BIGINT NOT NULL, 
	missions_failed BIGINT NOT NULL, 
	focus_minutes FLOAT NOT NULL, 
	applications BIGINT NOT NULL, 
	achievements BIGINT NOT NULL, 
	challenges_completed BIGINT NOT NULL, 
	learning_started BIGINT NOT NULL, 
	learning_completed BIGINT NOT NULL, 
	notebook_entries BIGINT NOT NULL, 
	logins BIGINT NOT NULL, 
	best_streak_days BIGINT NOT NULL, 
	reported_total_xp BIGINT, 
	reported_ms BIGINT, 
	reported_level BIGINT NOT NULL, 
	event_count BIGINT NOT NULL, 
	last_seen_ms BIGINT, 
	PRIMARY KEY (user_id)
)
 WITHOUT ROWID

;
CREATE INDEX events_by_user ON events ((seq / 100000), user_id, seq);
CREATE INDEX events_by_type ON events (type, seq);
CREATE INDEX events_not_processed ON events (seq) WHERE outcome != 'processed';
CREATE INDEX events_by_cause ON events (caused_by) WHERE caused_by IS NOT NULL;
CREATE INDEX ix_dead_letters_event_id ON dead_letters (event_id);
CREATE INDEX ix_dead_letters_state ON dead_letters (state);
CREATE INDEX ix_attempts_event_id ON attempts (event_id);
CREATE INDEX outgoing_by_time ON outgoing (created_ms);
CREATE INDEX ix_parked_next_ms ON parked (next_ms);
CREATE INDEX parked_by_key ON parked (topic, partition, user_id, "offset");
CREATE INDEX parked_heads ON parked (topic, partition, user_id) WHERE next_ms IS NOT NULL;
CREATE INDEX events_by_place ON events ((seq / 20000), topic, time_ms);
CREATE INDEX user_stats_by_level ON user_stats (level);
CREATE INDEX dead_letters_closed ON dead_letters (died_ms) WHERE state != 'open';
CREATE INDEX ix_forgotten_dead_letters_event_id ON forgotten_dead_letters (event_id);
COMMIT;
