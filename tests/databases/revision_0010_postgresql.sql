CREATE TABLE public.achievements (
    user_id character varying(128) NOT NULL,
    achievement_id character varying(500) NOT NULL,
    achievement_name character varying(500),
    xp_amount bigint NOT NULL,
    unlocked_ms bigint
);
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.applications (
    user_id character varying(128) NOT NULL,
    job_id character varying(500) NOT NULL,
    company_name character varying(500),
    "position" character varying(500),
    status character varying(500),
    applied_ms bigint,
    updated_ms bigint
);
CREATE TABLE public.attempts (
    id integer NOT NULL,
    event_id character varying(100) NOT NULL,
    number integer NOT NULL,
    failed_ms bigint NOT NULL,
    error text NOT NULL,
    error_class character varying(200) NOT NULL,
    path text,
    outcome character varying(10) NOT NULL,
    part text,
    trace text
);
CREATE SEQUENCE public.attempts_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.attempts_id_seq OWNED BY public.attempts.id;
CREATE TABLE public.challenges (
    user_id character varying(128) NOT NULL,
    challenge_id character varying(500) NOT NULL,
    title character varying(500),
    description character varying(5000),
    available_ms bigint,
    completed_ms bigint
);
CREATE SEQUENCE public.change_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE public.daily_xp (
    day_ms bigint NOT NULL,
    xp bigint NOT NULL
);
CREATE SEQUENCE public.daily_xp_day_ms_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.daily_xp_day_ms_seq OWNED BY public.daily_xp.day_ms;
CREATE TABLE public.dead_letters (
    id integer NOT NULL,
    identity character varying(100) NOT NULL,
    topic character varying(249) NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    appended_ms bigint NOT NULL,
    event_id character varying(100) NOT NULL,
    type character varying(100),
    user_id character varying(128),
    error text NOT NULL,
    error_class character varying(200) NOT NULL,
    path text,
    attempts integer NOT NULL,
    first_failed_ms bigint NOT NULL,
    died_ms bigint NOT NULL,
    key bytea,
    value bytea,
    headers bytea NOT NULL,
    edited bytea,
    repeats_below bigint,
    redrives integer NOT NULL,
    state character varying(10) NOT NULL,
    reason text,
    part text,
    trace text,
    done text
);
CREATE SEQUENCE public.dead_letters_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.dead_letters_id_seq OWNED BY public.dead_letters.id;
CREATE TABLE public.epoch (
    id integer NOT NULL,
    name character varying(36) NOT NULL,
    revision character varying(32),
    works_from character varying(32),
    is_outdated boolean
);
CREATE TABLE public.events (
    seq bigint NOT NULL,
    id character varying(100) NOT NULL,
    outcome character varying(10) NOT NULL,
    topic character varying(249) NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    type character varying(100),
    user_id character varying(128),
    time_ms bigint NOT NULL,
    received_ms bigint NOT NULL,
    caused_by character varying(100),
    body text NOT NULL
);
CREATE TABLE public.forgotten_dead_letters (
    identity character varying(100) NOT NULL,
    topic character varying(249) NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    event_id character varying(100) NOT NULL,
    repeats_below bigint,
    died_ms bigint NOT NULL
);
CREATE TABLE public.learning (
    user_id character varying(128) NOT NULL,
    resource_id character varying(500) NOT NULL,
    title character varying(500),
    resource_type character varying(500),
    progress double precision NOT NULL,
    started_ms bigint,
    completed_ms bigint
);
CREATE TABLE public.minute_counts (
    minute_ms bigint NOT NULL,
    type character varying(100) NOT NULL,
    count bigint NOT NULL
);
CREATE TABLE public.minutes (
    minute_ms bigint NOT NULL,
    processed bigint NOT NULL,
    retrying bigint NOT NULL,
    dead bigint NOT NULL,
    lag_messages bigint NOT NULL,
    lag_seconds double precision NOT NULL
);
CREATE SEQUENCE public.minutes_minute_ms_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.minutes_minute_ms_seq OWNED BY public.minutes.minute_ms;
CREATE TABLE public.notifications (
    user_id character varying(128) NOT NULL,
    notification_id character varying(500) NOT NULL,
    notification_type character varying(500),
    title character varying(500),
    message character varying(5000),
    sent_ms bigint,
    read_ms bigint
);
CREATE TABLE public.outgoing (
    id character varying(200) NOT NULL,
    process character varying(100) NOT NULL,
    created_ms bigint NOT NULL,
    topic character varying(249) NOT NULL,
    key bytea,
    value bytea,
    headers bytea NOT NULL
);
CREATE TABLE public.parked (
    event_id character varying(100) NOT NULL,
    identity character varying(64) NOT NULL,
    topic character varying(249) NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    key bytea,
    value bytea,
    headers bytea NOT NULL,
    appended_ms bigint NOT NULL,
    user_id character varying(128) NOT NULL,
    type character varying(100) NOT NULL,
    attempts integer NOT NULL,
    error text,
    error_class character varying(200),
    path text,
    first_failed_ms bigint,
    next_ms bigint,
    part text,
    trace text,
    done text
);
CREATE TABLE public.positions (
    identity character varying(64) NOT NULL,
    topic character varying(249) NOT NULL,
    partition integer NOT NULL,
    next bigint NOT NULL
);
CREATE TABLE public.processes (
    id character varying(100) NOT NULL,
    host character varying(255) NOT NULL,
    pid integer NOT NULL,
    heartbeat_ms bigint NOT NULL,
    consumer text NOT NULL
);
CREATE TABLE public.service (
    id integer NOT NULL,
    wanted character varying(10),
    generation integer NOT NULL
);
CREATE TABLE public.user_stats (
    user_id character varying(128) NOT NULL,
    xp bigint NOT NULL,
    level bigint NOT NULL,
    missions_started bigint NOT NULL,
    missions_completed bigint NOT NULL,
    missions_failed bigint NOT NULL,
    focus_minutes double precision NOT NULL,
    applications bigint NOT NULL,
    achievements bigint NOT NULL,
    challenges_completed bigint NOT NULL,
    learning_started bigint NOT NULL,
    learning_completed bigint NOT NULL,
    notebook_entries bigint NOT NULL,
    logins bigint NOT NULL,
    best_streak_days bigint NOT NULL,
    reported_total_xp bigint,
    reported_ms bigint,
    reported_level bigint NOT NULL,
    event_count bigint NOT NULL,
    last_seen_ms bigint
);
ALTER TABLE ONLY public.attempts ALTER COLUMN id SET DEFAULT nextval('public.attempts_id_seq'::regclass);
ALTER TABLE ONLY public.daily_xp ALTER COLUMN day_ms SET DEFAULT nextval('public.daily_xp_day_ms_seq'::regclass);
ALTER TABLE ONLY public.dead_letters ALTER COLUMN id SET DEFAULT nextval('public.dead_letters_id_seq'::regclass);
ALTER TABLE ONLY public.minutes ALTER COLUMN minute_ms SET DEFAULT nextval('public.minutes_minute_ms_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('0010');
INSERT INTO public.epoch VALUES (1, 'c76b74d9-12a3-4225-b3f7-a4c232ee70ad', '0010', '0010', NULL);
INSERT INTO public.service VALUES (1, NULL, 0);
SELECT pg_catalog.setval('public.attempts_id_seq', 1, false);
SELECT pg_catalog.setval('public.change_seq', 1, false);
SELECT pg_catalog.setval('public.daily_xp_day_ms_seq', 1, false);
SELECT pg_catalog.setval('public.dead_letters_id_seq', 1, false);
SELECT pg_catalog.setval('public.minutes_minute_ms_seq', 1, false);
ALTER TABLE ONLY public.achievements
    ADD CONSTRAINT achievements_pkey PRIMARY KEY (user_id, achievement_id);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.applications
    ADD CONSTRAINT applications_pkey PRIMARY KEY (user_id, job_id);
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.challenges
    ADD CONSTRAINT challenges_pkey PRIMARY KEY (user_id, challenge_id);
ALTER TABLE ONLY public.daily_xp
    ADD CONSTRAINT daily_xp_pkey PRIMARY KEY (day_ms);
ALTER TABLE ONLY public.dead_letters
    ADD CONSTRAINT dead_letters_identity_topic_partition_offset_key UNIQUE (identity, topic, partition, "offset");
ALTER TABLE ONLY public.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.epoch
    ADD CONSTRAINT epoch_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_id_key UNIQUE (id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (seq);
ALTER TABLE ONLY public.forgotten_dead_letters
    ADD CONSTRAINT forgotten_dead_letters_pkey PRIMARY KEY (identity, topic, partition, "offset");
ALTER TABLE ONLY public.learning
    ADD CONSTRAINT learning_pkey PRIMARY KEY (user_id, resource_id);
ALTER TABLE ONLY public.minute_counts
    ADD CONSTRAINT minute_counts_pkey PRIMARY KEY (minute_ms, type);
ALTER TABLE ONLY public.minutes
    ADD CONSTRAINT minutes_pkey PRIMARY KEY (minute_ms);
ALTER TABLE ONLY public.notifications
    ADD CONSTRAINT notifications_pkey PRIMARY KEY (user_id, notification_id);
ALTER TABLE ONLY public.outgoing
    ADD CONSTRAINT outgoing_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.parked
    ADD CONSTRAINT parked_pkey PRIMARY KEY (event_id);
ALTER TABLE ONLY public.positions
    ADD CONSTRAINT positions_pkey PRIMARY KEY (identity, topic, partition);
ALTER TABLE ONLY public.processes
    ADD CONSTRAINT processes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.service
    ADD CONSTRAINT service_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.user_stats
    ADD CONSTRAINT user_stats_pkey PRIMARY KEY (user_id);
CREATE INDEX dead_letters_closed ON public.dead_letters USING btree (died_ms) WHERE ((state)::text <> 'open'::text);
CREATE INDEX events_by_cause ON public.events USING btree (caused_by) WHERE (caused_by IS NOT NULL);
CREATE INDEX events_by_place ON public.events USING btree (((seq / 20000)), topic, time_ms);
CREATE INDEX events_by_type ON public.events USING btree (type, seq);
CREATE INDEX events_by_user ON public.events USING btree (((seq / 100000)), user_id, seq);
CREATE INDEX events_not_processed ON public.events USING btree (seq) WHERE ((outcome)::text <> 'processed'::text);
CREATE INDEX ix_attempts_event_id ON public.attempts USING btree (event_id);
CREATE INDEX ix_dead_letters_event_id ON public.dead_letters USING btree (event_id);
CREATE INDEX ix_dead_letters_state ON public.dead_letters USING btree (state);
CREATE INDEX ix_forgotten_dead_letters_event_id ON public.forgotten_dead_letters USING btree (event_id);
CREATE INDEX ix_parked_next_ms ON public.parked USING btree (next_ms);
CREATE INDEX outgoing_by_time ON public.outgoing USING btree (created_ms);
CREATE INDEX parked_by_key ON public.parked USING btree (topic, partition, user_id, "offset");
CREATE INDEX parked_heads ON public.parked USING btree (topic, partition, user_id) WHERE (next_ms IS NOT NULL);
CREATE INDEX user_stats_by_level ON public.user_stats USING btree (level);
