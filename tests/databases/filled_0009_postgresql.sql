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
CREATE TABLE public.counter (
    id integer NOT NULL,
    seq bigint NOT NULL,
    epoch character varying(36) NOT NULL
);
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
INSERT INTO public.alembic_version VALUES ('0009');
INSERT INTO public.attempts VALUES (1, 'waits', 1, 1795827654235, 'ValueError: not now', 'ValueError', 'filled.py:27 in second', 'retrying', 'handler tests.filled.second', 'reactor.py:149 in _handle
    handler(event)
filled.py:27 in second
    raise NotRetryable("never") if event.user_id == "dora" else ValueError("not now")');
INSERT INTO public.attempts VALUES (2, 'open', 1, 1795827654235, 'never', 'NotRetryable', 'filled.py:27 in second', 'dead', 'handler tests.filled.second', 'reactor.py:149 in _handle
    handler(event)
filled.py:27 in second
    raise NotRetryable("never") if event.user_id == "dora" else ValueError("not now")');
INSERT INTO public.attempts VALUES (3, 'edited', 1, 1795827654235, 'never', 'NotRetryable', 'filled.py:27 in second', 'dead', 'handler tests.filled.second', 'reactor.py:149 in _handle
    handler(event)
filled.py:27 in second
    raise NotRetryable("never") if event.user_id == "dora" else ValueError("not now")');
INSERT INTO public.attempts VALUES (4, 'redriven', 1, 1795827654235, 'never', 'NotRetryable', 'filled.py:27 in second', 'dead', 'handler tests.filled.second', 'reactor.py:149 in _handle
    handler(event)
filled.py:27 in second
    raise NotRetryable("never") if event.user_id == "dora" else ValueError("not now")');
INSERT INTO public.attempts VALUES (5, 'discarded', 1, 1795827654235, 'never', 'NotRetryable', 'filled.py:27 in second', 'dead', 'handler tests.filled.second', 'reactor.py:149 in _handle
    handler(event)
filled.py:27 in second
    raise NotRetryable("never") if event.user_id == "dora" else ValueError("not now")');
INSERT INTO public.counter VALUES (1, 11, '9807b112-3b4b-4274-87a3-3451905b1812');
INSERT INTO public.daily_xp VALUES (1795824000000, 190);
INSERT INTO public.dead_letters VALUES (1, '660a4329-9a05-409c-9a0b-14e8cd977f88', 'achievements', 0, 5, 1795827654176, 'open', 'xp.earned', 'dora', 'never', 'NotRetryable', 'filled.py:27 in second', 1, 1795827654213, 1795827654226, '\x646f7261', '\x7b226964223a226f70656e222c2274797065223a2278702e6561726e6564222c22757365724964223a22646f7261222c2274696d657374616d70223a22323032362d31312d32385430313a30303a35342e3137355a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c226f70656e225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32385430313a30303a35342e3137355a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d5d', NULL, NULL, 0, 'open', NULL, 'handler tests.filled.second', 'reactor.py:149 in _handle
    handler(event)
filled.py:27 in second
    raise NotRetryable("never") if event.user_id == "dora" else ValueError("not now")', '["tests.filled.first"]');
INSERT INTO public.dead_letters VALUES (2, '660a4329-9a05-409c-9a0b-14e8cd977f88', 'achievements', 0, 6, 1795827654180, 'edited', 'xp.earned', 'dora', 'never', 'NotRetryable', 'filled.py:27 in second', 1, 1795827654213, 1795827654232, '\x646f7261', '\x7b226964223a22656469746564222c2274797065223a2278702e6561726e6564222c22757365724964223a22646f7261222c2274696d657374616d70223a22323032362d31312d32385430313a30303a35342e3137395a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c22656469746564225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32385430313a30303a35342e3137395a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d5d', '\x7b226964223a2022656469746564222c202274797065223a202278702e6561726e6564222c2022757365724964223a2022646f7261222c202274696d657374616d70223a2022323032362d31312d32385430313a30303a35342e3137395a222c20226d65746164617461223a207b7d2c202264617461223a207b227870416d6f756e74223a20372c2022746f74616c5870223a20307d7d', NULL, 0, 'open', NULL, 'handler tests.filled.second', 'reactor.py:149 in _handle
    handler(event)
filled.py:27 in second
    raise NotRetryable("never") if event.user_id == "dora" else ValueError("not now")', '["tests.filled.first"]');
INSERT INTO public.dead_letters VALUES (4, '660a4329-9a05-409c-9a0b-14e8cd977f88', 'achievements', 0, 8, 1795827654184, 'discarded', 'xp.earned', 'dora', 'never', 'NotRetryable', 'filled.py:27 in second', 1, 1795827654213, 1795827654234, '\x646f7261', '\x7b226964223a22646973636172646564222c2274797065223a2278702e6561726e6564222c22757365724964223a22646f7261222c2274696d657374616d70223a22323032362d31312d32385430313a30303a35342e3138345a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c22646973636172646564225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32385430313a30303a35342e3138345a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d5d', NULL, NULL, 0, 'discarded', 'Not ours', 'handler tests.filled.second', 'reactor.py:149 in _handle
    handler(event)
filled.py:27 in second
    raise NotRetryable("never") if event.user_id == "dora" else ValueError("not now")', '["tests.filled.first"]');
INSERT INTO public.dead_letters VALUES (3, '660a4329-9a05-409c-9a0b-14e8cd977f88', 'achievements', 0, 7, 1795827654184, 'redriven', 'xp.earned', 'dora', 'never', 'NotRetryable', 'filled.py:27 in second', 1, 1795827654213, 1795827654233, '\x646f7261', '\x7b226964223a22726564726976656e222c2274797065223a2278702e6561726e6564222c22757365724964223a22646f7261222c2274696d657374616d70223a22323032362d31312d32385430313a30303a35342e3138335a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c22726564726976656e225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32385430313a30303a35342e3138335a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d5d', NULL, NULL, 0, 'redriven', NULL, 'handler tests.filled.second', 'reactor.py:149 in _handle
    handler(event)
filled.py:27 in second
    raise NotRetryable("never") if event.user_id == "dora" else ValueError("not now")', '["tests.filled.first"]');
INSERT INTO public.events VALUES (1, 'one', 'processed', 'achievements', 0, 0, 'xp.earned', 'zoe', 1795827653546, 1795827654144, NULL, '{"id":"one","type":"xp.earned","userId":"zoe","timestamp":"2026-11-28T01:00:53.546Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (2, 'two', 'processed', 'achievements', 0, 1, 'xp.earned', 'zoe', 1795827654153, 1795827654156, NULL, '{"id":"two","type":"xp.earned","userId":"zoe","timestamp":"2026-11-28T01:00:54.153Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (3, 'three', 'processed', 'achievements', 0, 2, 'xp.earned', 'zoe', 1795827654159, 1795827654164, NULL, '{"id":"three","type":"xp.earned","userId":"zoe","timestamp":"2026-11-28T01:00:54.159Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (4, 'waits', 'retrying', 'achievements', 0, 3, 'xp.earned', 'ada', 1795827654168, 1795827654169, NULL, '{"id":"waits","type":"xp.earned","userId":"ada","timestamp":"2026-11-28T01:00:54.168Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (5, 'behind', 'retrying', 'achievements', 0, 4, 'xp.earned', 'ada', 1795827654170, 1795827654172, NULL, '{"id":"behind","type":"xp.earned","userId":"ada","timestamp":"2026-11-28T01:00:54.170Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (6, 'open', 'dead', 'achievements', 0, 5, 'xp.earned', 'dora', 1795827654175, 1795827654176, NULL, '{"id":"open","type":"xp.earned","userId":"dora","timestamp":"2026-11-28T01:00:54.175Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (7, 'edited', 'dead', 'achievements', 0, 6, 'xp.earned', 'dora', 1795827654179, 1795827654180, NULL, '{"id":"edited","type":"xp.earned","userId":"dora","timestamp":"2026-11-28T01:00:54.179Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (9, 'discarded', 'dead', 'achievements', 0, 8, 'xp.earned', 'dora', 1795827654184, 1795827654184, NULL, '{"id":"discarded","type":"xp.earned","userId":"dora","timestamp":"2026-11-28T01:00:54.184Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (10, 'redriven', 'processed', 'achievements', 0, 9, 'xp.earned', 'dora', 1795827654183, 1795827654307, NULL, '{"id":"redriven","type":"xp.earned","userId":"dora","timestamp":"2026-11-28T01:00:54.183Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (11, 'level', 'processed', 'achievements', 0, 10, 'xp.earned', 'max', 1795827654335, 1795827654340, NULL, '{"id":"level","type":"xp.earned","userId":"max","timestamp":"2026-11-28T01:00:54.335Z","metadata":{},"data":{"xpAmount":150,"totalXp":0}}');
INSERT INTO public.minute_counts VALUES (1795827600000, 'xp.earned', 5);
INSERT INTO public.minutes VALUES (1795827600000, 5, 1, 4, 0, 0);
INSERT INTO public.outgoing VALUES ('jq:level.up:48f0f14a4befb67cd61b6512164a8d3b', 'vm:9194:3e4824f404ee:f32db985', 1795827654348, 'achievements', '\x6d6178', '\x7b226964223a226a713a6c6576656c2e75703a3438663066313461346265666236376364363162363531323136346138643362222c2274797065223a226c6576656c2e7570222c22757365724964223a226d6178222c2274696d657374616d70223a22323032362d31312d32385430313a30303a35342e3333355a222c226d65746164617461223a7b226361757365644279223a226c6576656c227d2c2264617461223a7b226e65774c6576656c223a322c22746f74616c5870223a3135307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c226a713a6c6576656c2e75703a3438663066313461346265666236376364363162363531323136346138643362225d2c5b2263655f74797065222c226c6576656c2e7570225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32385430313a30303a35342e3333355a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d5d');
INSERT INTO public.parked VALUES ('waits', '660a4329-9a05-409c-9a0b-14e8cd977f88', 'achievements', 0, 3, '\x616461', '\x7b226964223a227761697473222c2274797065223a2278702e6561726e6564222c22757365724964223a22616461222c2274696d657374616d70223a22323032362d31312d32385430313a30303a35342e3136385a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c227761697473225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32385430313a30303a35342e3136385a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d5d', 1795827654169, 'ada', 'xp.earned', 1, 'ValueError: not now', 'ValueError', 'filled.py:27 in second', 1795827654212, 1795827655407, 'handler tests.filled.second', 'reactor.py:149 in _handle
    handler(event)
filled.py:27 in second
    raise NotRetryable("never") if event.user_id == "dora" else ValueError("not now")', '["tests.filled.first"]');
INSERT INTO public.parked VALUES ('behind', '660a4329-9a05-409c-9a0b-14e8cd977f88', 'achievements', 0, 4, '\x616461', '\x7b226964223a22626568696e64222c2274797065223a2278702e6561726e6564222c22757365724964223a22616461222c2274696d657374616d70223a22323032362d31312d32385430313a30303a35342e3137305a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c22626568696e64225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32385430313a30303a35342e3137305a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d5d', 1795827654172, 'ada', 'xp.earned', 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '[]');
INSERT INTO public.positions VALUES ('660a4329-9a05-409c-9a0b-14e8cd977f88', 'achievements', 0, 11);
INSERT INTO public.processes VALUES ('vm:9194:3e4824f404ee:f32db985', 'vm', 9194, 1795827654354, '{"state": "running", "assignment": []}');
INSERT INTO public.service VALUES (1, 'running', 1);
INSERT INTO public.user_stats VALUES ('zoe', 30, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1795827654159, 0, 3, 1795827654159);
INSERT INTO public.user_stats VALUES ('dora', 10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1795827654183, 0, 1, 1795827654183);
INSERT INTO public.user_stats VALUES ('max', 150, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1795827654335, 0, 1, 1795827654335);
SELECT pg_catalog.setval('public.attempts_id_seq', 5, true);
SELECT pg_catalog.setval('public.daily_xp_day_ms_seq', 1, false);
SELECT pg_catalog.setval('public.dead_letters_id_seq', 4, true);
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
ALTER TABLE ONLY public.counter
    ADD CONSTRAINT counter_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.daily_xp
    ADD CONSTRAINT daily_xp_pkey PRIMARY KEY (day_ms);
ALTER TABLE ONLY public.dead_letters
    ADD CONSTRAINT dead_letters_identity_topic_partition_offset_key UNIQUE (identity, topic, partition, "offset");
ALTER TABLE ONLY public.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (id);
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
