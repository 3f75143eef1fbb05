/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a holder asks its guard over a SOCK_SEQPACKET pair, one datagram each way: first guard_config, with a guard_place
 * for each plug after it, then guard_question; the guard's word is guard_answer each time, but to END, after which it
 * ends. Every hold has an id, never 0, and a question about a hold that is not on changes nothing. No preprocessor line
 * stands here: the C compiler and cffi both read it.
 */
enum guard_version { GUARD_VERSION = 2 };
enum guard_what { GUARD_HOLD = 1, GUARD_RELEASE, GUARD_END };
enum guard_message { GUARD_SEND_BUFFER, GUARD_SEND_RELEASE, GUARD_SEND_DROP, GUARD_ASK_COUNTERS, GUARD_ASK_LINK };
/* What an error is about. */
enum guard_step { GUARD_CONFIG = 1, GUARD_MEMORY, GUARD_SOCKET, GUARD_PERMISSION, GUARD_MARK, GUARD_PLUG };
/* What became of the hold that RELEASE asks about. NOT_ON: it is neither on nor the one that ended last. */
enum guard_outcome { GUARD_NOT_ON, GUARD_RELEASED, GUARD_EXPIRED };
/* By what the kernel may have thrown packets away during a hold without counting them. UNSEEN: too much happened. */
enum guard_lost { GUARD_LINK_DOWN = 1, GUARD_NO_CARRIER, GUARD_QUEUE_LENGTH, GUARD_CLSACT, GUARD_REPLACED, GUARD_UNSEEN };

struct guard_config {
	uint32_t version;
	uint32_t holder;		/* its pid, for those who ask who holds */
	uint32_t count;			/* of plugs */
	uint32_t unused;
	char messages[5][64];		/* a netlink message for each guard_message; the place in it is filled in by the guard */
};

struct guard_place {
	int32_t ifindex;
	uint32_t handle;
	uint32_t parent;
};

struct guard_question {
	uint32_t what;
	uint32_t drop;			/* HOLD: drop instead of releasing when the holder dies or overstays */
	uint32_t detached;		/* HOLD: the holder's death means nothing, only the time does */
	uint32_t unused;
	uint64_t id;
	int64_t timeout;		/* HOLD: nanoseconds, 0 for none */
	int64_t limit;			/* HOLD: the plug's limit in bytes if the holder set it, else 0: for those who ask */
};

struct guard_answer {
	uint64_t id;
	int32_t error;			/* an errno, of one of the plugs; 0 for done */
	uint32_t step;
	uint32_t plug;			/* which one: its mark was taken (EADDRINUSE), or what ``lost`` says happened there */
	uint32_t failures;		/* how many guard_failure follow in the same datagram */
	uint32_t outcome;
	uint32_t lost;
	uint32_t known;			/* whether the counters are: what was in the plugs right before the release */
	uint32_t unused;
	int64_t held;			/* nanoseconds, from right before buffer until right after release */
	uint64_t packets;
	uint64_t bytes;
	uint64_t dropped;		/* since right before buffer */
};

struct guard_failure {
	uint32_t plug;
	int32_t error;
};

/* What a guard tells who connects to a mark of its. Who sends it a guard_question END there may end a detached hold. */
struct guard_info {
	uint32_t holder;
	uint32_t detached;
	uint32_t guard;			/* its pid; who sees another one is in another pid namespace, and holder means nothing there */
	uint32_t unused;
	int64_t timeout;
	int64_t since;			/* CLOCK_REALTIME, nanoseconds */
	int64_t limit;
};
