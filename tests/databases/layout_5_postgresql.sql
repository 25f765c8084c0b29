CREATE TABLE public.achievements (
    user_id character varying(128) NOT NULL,
    achievement_id character varying(500) NOT NULL,
    achievement_name character varying(500),
    xp_amount bigint NOT NULL,
    unlocked_ms bigint
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
    outcome character varying(10) NOT NULL
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
    mended bytea,
    repeats_below bigint,
    redrives integer NOT NULL,
    state character varying(10) NOT NULL,
    reason text
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
CREATE TABLE public.layout (
    number integer NOT NULL
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
    key bytea NOT NULL,
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
    next_ms bigint
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
    generation integer NOT NULL,
    demo integer NOT NULL
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
INSERT INTO public.attempts VALUES (1, 'waits', 1, 1795781807673, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 'retrying');
INSERT INTO public.attempts VALUES (2, 'discarded', 1, 1795781807673, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 'retrying');
INSERT INTO public.attempts VALUES (3, 'edited', 1, 1795781807673, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 'retrying');
INSERT INTO public.attempts VALUES (4, 'redriven', 1, 1795781807673, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 'retrying');
INSERT INTO public.attempts VALUES (5, 'open', 1, 1795781807673, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 'retrying');
INSERT INTO public.attempts VALUES (6, 'discarded', 2, 1795781807690, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 'retrying');
INSERT INTO public.attempts VALUES (7, 'discarded', 3, 1795781807703, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 'dead');
INSERT INTO public.attempts VALUES (8, 'edited', 2, 1795781807722, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 'retrying');
INSERT INTO public.attempts VALUES (9, 'edited', 3, 1795781807731, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 'dead');
INSERT INTO public.attempts VALUES (10, 'redriven', 2, 1795781807745, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 'retrying');
INSERT INTO public.attempts VALUES (11, 'redriven', 3, 1795781807753, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 'dead');
INSERT INTO public.attempts VALUES (12, 'open', 2, 1795781807767, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 'retrying');
INSERT INTO public.attempts VALUES (13, 'open', 3, 1795781807776, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 'dead');
INSERT INTO public.counter VALUES (1, 15, '14d6eedc-5e29-49b3-8f8e-aa8f6ac06822');
INSERT INTO public.daily_xp VALUES (1795737600000, 10);
INSERT INTO public.dead_letters VALUES (4, 'c2c4ac97-4aad-410d-97d1-112a16701984', 'achievements', 0, 6, 1795781807656, 'open', 'xp.earned', 'fay', 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 3, 1795781807668, 1795781807775, '\x666179', '\x7b226964223a226f70656e222c2274797065223a2278702e6561726e6564222c22757365724964223a22666179222c2274696d657374616d70223a22323032362d31312d32375431323a31363a34372e3635355a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c226f70656e225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32375431323a31363a34372e3635355a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d5d', NULL, 7, 0, 'open', NULL);
INSERT INTO public.dead_letters VALUES (1, 'c2c4ac97-4aad-410d-97d1-112a16701984', 'achievements', 0, 3, 1795781807652, 'discarded', 'xp.earned', 'bob', 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 3, 1795781807668, 1795781807701, '\x626f62', '\x7b226964223a22646973636172646564222c2274797065223a2278702e6561726e6564222c22757365724964223a22626f62222c2274696d657374616d70223a22323032362d31312d32375431323a31363a34372e3635325a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c22646973636172646564225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32375431323a31363a34372e3635325a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d5d', NULL, 7, 0, 'discarded', 'Not ours');
INSERT INTO public.dead_letters VALUES (2, 'c2c4ac97-4aad-410d-97d1-112a16701984', 'achievements', 0, 4, 1795781807653, 'edited', 'xp.earned', 'eve', 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 3, 1795781807668, 1795781807730, '\x657665', '\x7b226964223a22656469746564222c2274797065223a2278702e6561726e6564222c22757365724964223a22657665222c2274696d657374616d70223a22323032362d31312d32375431323a31363a34372e3635335a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c22656469746564225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32375431323a31363a34372e3635335a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d5d', '\x7b226964223a2022656469746564222c202274797065223a202278702e6561726e6564222c2022757365724964223a2022657665222c202274696d657374616d70223a2022323032362d31312d32375431323a31363a34372e3635335a222c20226d65746164617461223a207b7d2c202264617461223a207b227870416d6f756e74223a20352c2022746f74616c5870223a20307d7d', 7, 0, 'open', NULL);
INSERT INTO public.dead_letters VALUES (3, 'c2c4ac97-4aad-410d-97d1-112a16701984', 'achievements', 0, 5, 1795781807655, 'redriven', 'xp.earned', 'dan', 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 3, 1795781807668, 1795781807753, '\x64616e', '\x7b226964223a22726564726976656e222c2274797065223a2278702e6561726e6564222c22757365724964223a2264616e222c2274696d657374616d70223a22323032362d31312d32375431323a31363a34372e3635345a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c22726564726976656e225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32375431323a31363a34372e3635345a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d5d', NULL, 7, 0, 'redriven', NULL);
INSERT INTO public.events VALUES (1, 'counted', 'processed', 'achievements', 0, 0, 'xp.earned', 'zoe', 1795781807566, 1795781807648, NULL, '{"id":"counted","type":"xp.earned","userId":"zoe","timestamp":"2026-11-27T12:16:47.566Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (2, 'waits', 'retrying', 'achievements', 0, 1, 'xp.earned', 'ada', 1795781807650, 1795781807650, NULL, '{"id":"waits","type":"xp.earned","userId":"ada","timestamp":"2026-11-27T12:16:47.650Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (3, 'behind', 'retrying', 'achievements', 0, 2, 'xp.earned', 'ada', 1795781807651, 1795781807651, NULL, '{"id":"behind","type":"xp.earned","userId":"ada","timestamp":"2026-11-27T12:16:47.651Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (9, 'discarded', 'dead', 'achievements', 0, 3, 'xp.earned', 'bob', 1795781807652, 1795781807652, NULL, '{"id":"discarded","type":"xp.earned","userId":"bob","timestamp":"2026-11-27T12:16:47.652Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (11, 'edited', 'dead', 'achievements', 0, 4, 'xp.earned', 'eve', 1795781807653, 1795781807653, NULL, '{"id":"edited","type":"xp.earned","userId":"eve","timestamp":"2026-11-27T12:16:47.653Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (13, 'redriven', 'dead', 'achievements', 0, 5, 'xp.earned', 'dan', 1795781807654, 1795781807655, NULL, '{"id":"redriven","type":"xp.earned","userId":"dan","timestamp":"2026-11-27T12:16:47.654Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.events VALUES (15, 'open', 'dead', 'achievements', 0, 6, 'xp.earned', 'fay', 1795781807655, 1795781807656, NULL, '{"id":"open","type":"xp.earned","userId":"fay","timestamp":"2026-11-27T12:16:47.655Z","metadata":{},"data":{"xpAmount":10,"totalXp":0}}');
INSERT INTO public.layout VALUES (5);
INSERT INTO public.minute_counts VALUES (1795781760000, 'xp.earned', 1);
INSERT INTO public.minutes VALUES (1795781760000, 1, 9, 4, 0, 0);
INSERT INTO public.outgoing VALUES ('discarded:c2c4ac97-4aad-410d-97d1-112a16701984:achievements:0:3:a036b674', 'vm:32456:506ca668', 1795781807797, 'dead-letters', '\x626f62', '\x7b226964223a22646973636172646564222c2274797065223a2278702e6561726e6564222c22757365724964223a22626f62222c2274696d657374616d70223a22323032362d31312d32375431323a31363a34372e3635325a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c22646973636172646564225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32375431323a31363a34372e3635325a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d2c5b225f5f646c712e6572726f72732e746f706963222c22616368696576656d656e7473225d2c5b225f5f646c712e6572726f72732e706172746974696f6e222c2230225d2c5b225f5f646c712e6572726f72732e6f6666736574222c2233225d2c5b225f5f646c712e6572726f72732e67726f7570222c226a6f622d71756573742d636f6e73756d6572225d2c5b225f5f646c712e6572726f72732e64656c69766572792e636f756e74222c2233225d2c5b225f5f646c712e6572726f72732e6d657373616765222c22546865206d61696c207365727665722069732061776179225d2c5b226a6f6271756573742e646c712e616374696f6e222c22646973636172646564225d2c5b226a6f6271756573742e646c712e636c617373222c22436f6e6e656374696f6e4572726f72225d2c5b226a6f6271756573742e646c712e70617468222c22746573745f6d6b64756d702e70793a313720696e2068616e646c65225d2c5b226a6f6271756573742e646c712e7265647269766573222c2230225d2c5b226a6f6271756573742e646c712e726570656174732e62656c6f77222c2237225d2c5b226a6f6271756573742e646c712e726561736f6e222c224e6f74206f757273225d2c5b226a6f6271756573742e646c712e746f7069632e6964222c2263326334616339372d346161642d343130642d393764312d313132613136373031393834225d2c5b226a6f6271756573742e646c712e6576656e742e6964222c22646973636172646564225d2c5b226a6f6271756573742e646c712e617070656e6465642e6d73222c2231373935373831383037363532225d2c5b226a6f6271756573742e646c712e66697273742e6661696c65642e6d73222c2231373935373831383037363638225d2c5b226a6f6271756573742e646c712e646965642e6d73222c2231373935373831383037373031225d5d');
INSERT INTO public.outgoing VALUES ('mended:c2c4ac97-4aad-410d-97d1-112a16701984:achievements:0:4:b472e787', 'vm:32456:506ca668', 1795781807800, 'dead-letters', '\x657665', '\x7b226964223a2022656469746564222c202274797065223a202278702e6561726e6564222c2022757365724964223a2022657665222c202274696d657374616d70223a2022323032362d31312d32375431323a31363a34372e3635335a222c20226d65746164617461223a207b7d2c202264617461223a207b227870416d6f756e74223a20352c2022746f74616c5870223a20307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c22656469746564225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32375431323a31363a34372e3635335a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d2c5b225f5f646c712e6572726f72732e746f706963222c22616368696576656d656e7473225d2c5b225f5f646c712e6572726f72732e706172746974696f6e222c2230225d2c5b225f5f646c712e6572726f72732e6f6666736574222c2234225d2c5b225f5f646c712e6572726f72732e67726f7570222c226a6f622d71756573742d636f6e73756d6572225d2c5b225f5f646c712e6572726f72732e64656c69766572792e636f756e74222c2233225d2c5b225f5f646c712e6572726f72732e6d657373616765222c22546865206d61696c207365727665722069732061776179225d2c5b226a6f6271756573742e646c712e616374696f6e222c226d656e646564225d2c5b226a6f6271756573742e646c712e636c617373222c22436f6e6e656374696f6e4572726f72225d2c5b226a6f6271756573742e646c712e70617468222c22746573745f6d6b64756d702e70793a313720696e2068616e646c65225d2c5b226a6f6271756573742e646c712e7265647269766573222c2230225d2c5b226a6f6271756573742e646c712e726570656174732e62656c6f77222c2237225d2c5b226a6f6271756573742e646c712e746f7069632e6964222c2263326334616339372d346161642d343130642d393764312d313132613136373031393834225d2c5b226a6f6271756573742e646c712e6576656e742e6964222c22656469746564225d2c5b226a6f6271756573742e646c712e617070656e6465642e6d73222c2231373935373831383037363533225d2c5b226a6f6271756573742e646c712e66697273742e6661696c65642e6d73222c2231373935373831383037363638225d2c5b226a6f6271756573742e646c712e646965642e6d73222c2231373935373831383037373330225d5d');
INSERT INTO public.outgoing VALUES ('redriven:c2c4ac97-4aad-410d-97d1-112a16701984:achievements:0:5:db1a1d1b', 'vm:32456:506ca668', 1795781807805, 'dead-letters', '\x64616e', '\x7b226964223a22726564726976656e222c2274797065223a2278702e6561726e6564222c22757365724964223a2264616e222c2274696d657374616d70223a22323032362d31312d32375431323a31363a34372e3635345a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c22726564726976656e225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32375431323a31363a34372e3635345a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d2c5b225f5f646c712e6572726f72732e746f706963222c22616368696576656d656e7473225d2c5b225f5f646c712e6572726f72732e706172746974696f6e222c2230225d2c5b225f5f646c712e6572726f72732e6f6666736574222c2235225d2c5b225f5f646c712e6572726f72732e67726f7570222c226a6f622d71756573742d636f6e73756d6572225d2c5b225f5f646c712e6572726f72732e64656c69766572792e636f756e74222c2233225d2c5b225f5f646c712e6572726f72732e6d657373616765222c22546865206d61696c207365727665722069732061776179225d2c5b226a6f6271756573742e646c712e616374696f6e222c22726564726976656e225d2c5b226a6f6271756573742e646c712e636c617373222c22436f6e6e656374696f6e4572726f72225d2c5b226a6f6271756573742e646c712e70617468222c22746573745f6d6b64756d702e70793a313720696e2068616e646c65225d2c5b226a6f6271756573742e646c712e7265647269766573222c2230225d2c5b226a6f6271756573742e646c712e726570656174732e62656c6f77222c2237225d2c5b226a6f6271756573742e646c712e746f7069632e6964222c2263326334616339372d346161642d343130642d393764312d313132613136373031393834225d2c5b226a6f6271756573742e646c712e6576656e742e6964222c22726564726976656e225d2c5b226a6f6271756573742e646c712e617070656e6465642e6d73222c2231373935373831383037363535225d2c5b226a6f6271756573742e646c712e66697273742e6661696c65642e6d73222c2231373935373831383037363638225d2c5b226a6f6271756573742e646c712e646965642e6d73222c2231373935373831383037373533225d5d');
INSERT INTO public.parked VALUES ('waits', 'c2c4ac97-4aad-410d-97d1-112a16701984', 'achievements', 0, 1, '\x616461', '\x7b226964223a227761697473222c2274797065223a2278702e6561726e6564222c22757365724964223a22616461222c2274696d657374616d70223a22323032362d31312d32375431323a31363a34372e3635305a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c227761697473225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32375431323a31363a34372e3635305a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d5d', 1795781807650, 'ada', 'xp.earned', 1, 'The mail server is away', 'ConnectionError', 'test_mkdump.py:17 in handle', 1795781807667, 1795781808552);
INSERT INTO public.parked VALUES ('behind', 'c2c4ac97-4aad-410d-97d1-112a16701984', 'achievements', 0, 2, '\x616461', '\x7b226964223a22626568696e64222c2274797065223a2278702e6561726e6564222c22757365724964223a22616461222c2274696d657374616d70223a22323032362d31312d32375431323a31363a34372e3635315a222c226d65746164617461223a7b7d2c2264617461223a7b227870416d6f756e74223a31302c22746f74616c5870223a307d7d', '\x5b5b2263655f7370656376657273696f6e222c22312e30225d2c5b2263655f6964222c22626568696e64225d2c5b2263655f74797065222c2278702e6561726e6564225d2c5b2263655f736f75726365222c222f6a6f6271756573742f6576656e7473225d2c5b2263655f74696d65222c22323032362d31312d32375431323a31363a34372e3635315a225d2c5b22636f6e74656e742d74797065222c226170706c69636174696f6e2f6a736f6e225d5d', 1795781807651, 'ada', 'xp.earned', 0, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.positions VALUES ('c2c4ac97-4aad-410d-97d1-112a16701984', 'achievements', 0, 7);
INSERT INTO public.service VALUES (1, 'stopped', 3, 0);
INSERT INTO public.user_stats VALUES ('zoe', 10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1795781807566, 0, 1, 1795781807566);
SELECT pg_catalog.setval('public.attempts_id_seq', 13, true);
SELECT pg_catalog.setval('public.daily_xp_day_ms_seq', 1, false);
SELECT pg_catalog.setval('public.dead_letters_id_seq', 4, true);
SELECT pg_catalog.setval('public.minutes_minute_ms_seq', 1, false);
ALTER TABLE ONLY public.achievements
    ADD CONSTRAINT achievements_pkey PRIMARY KEY (user_id, achievement_id);
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
ALTER TABLE ONLY public.layout
    ADD CONSTRAINT layout_pkey PRIMARY KEY (number);
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
CREATE INDEX events_by_cause ON public.events USING btree (caused_by) WHERE (caused_by IS NOT NULL);
CREATE INDEX events_by_type ON public.events USING btree (type, seq);
CREATE INDEX events_by_user ON public.events USING btree (((seq / 100000)), user_id, seq);
CREATE INDEX events_not_processed ON public.events USING btree (seq) WHERE ((outcome)::text <> 'processed'::text);
CREATE INDEX ix_attempts_event_id ON public.attempts USING btree (event_id);
CREATE INDEX ix_dead_letters_event_id ON public.dead_letters USING btree (event_id);
CREATE INDEX ix_dead_letters_state ON public.dead_letters USING btree (state);
CREATE INDEX ix_parked_next_ms ON public.parked USING btree (next_ms);
CREATE INDEX outgoing_by_time ON public.outgoing USING btree (created_ms);
CREATE INDEX parked_by_lane ON public.parked USING btree (topic, partition, key, appended_ms, "offset");
