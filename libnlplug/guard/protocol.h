/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a holder and its guard say to each other, over a SOCK_SEQPACKET pair. Before it starts the guard, the holder
 * sends guard_config, with a guard_place for each plug after it, and three descriptors: its pidfd, its /proc/PID/stat,
 * and a netlink socket that hears of links and qdiscs. The guard answers that, and each guard_question but END, with
 * guard_answer. After the answer to a question comes the errno of each plug, an int32_t, 0 for none. Every hold has an
 * id, never 0; a question about a hold that is not on changes nothing. In every version, guard_config begins with the
 * version, and guard_answer with id, error, step. cffi reads this file, too, so it has no preprocessor lines.
 */
enum guard_version { GUARD_VERSION = 4 };
enum guard_what { GUARD_HOLD = 1, GUARD_RELEASE, GUARD_END };
enum guard_message { GUARD_SEND_BUFFER, GUARD_SEND_RELEASE, GUARD_SEND_DROP, GUARD_ASK_COUNTERS, GUARD_ASK_LINK };
/* What an error is about. */
enum guard_step { GUARD_CONFIG = 1, GUARD_MARK, GUARD_PLUG };
/* What became of the hold that RELEASE asks about. NOT_ON: it is neither on nor the one that ended last. */
enum guard_outcome { GUARD_NOT_ON, GUARD_RELEASED, GUARD_EXPIRED };
/* Why the kernel may have dropped packets during a hold without counting them. UNSEEN: the socket missed changes. */
enum guard_lost {
	GUARD_LINK_DOWN = 1, GUARD_NO_CARRIER, GUARD_QUEUE_LENGTH, GUARD_CLSACT, GUARD_REPLACED, GUARD_UNSEEN
};

struct guard_config {
	uint32_t version, holder, count, port;	/* the holder's pid; how many plugs; the netlink socket's port */
	char messages[5][64];	/* a netlink message for each guard_message; the guard fills in the plug's place */
};

struct guard_place {
	int32_t ifindex;
	uint32_t handle, parent;
};

/* Of HOLD: ``drop``: delete the plugs if the holder dies or is late; ``detached``: go on without the holder. */
struct guard_question {
	uint32_t what, drop, detached, unused;
	uint64_t id;
	int64_t timeout, limit;	/* nanoseconds, 0 for none; bytes, 0 if unknown: the limit for those who ask */
};

/* ``plug`` is the one whose mark is taken, or what ``lost`` is about; ``counted`` says whether the counters are known. */
struct guard_answer {
	uint64_t id;
	int32_t error;
	uint32_t step, plug, outcome, lost, counted;
	int64_t held;		/* nanoseconds, from right before buffer until right after release */
	uint64_t packets, bytes, dropped;	/* in the plugs right before the release; since right before buffer */
};

/*
 * The guard sends this to a visitor, a process that connects to a mark. If the visitor sees the guard under another pid
 * than ``guard``, it is in another pid namespace, where ``holder`` means nothing. A visitor that connects from an abstract
 * address that begins with "libnlplug-end/" asks for the end of a detached hold.
 */
struct guard_info {
	uint32_t holder, detached, guard, unused;
	int64_t timeout, since, limit;		/* since: CLOCK_REALTIME, nanoseconds */
};
