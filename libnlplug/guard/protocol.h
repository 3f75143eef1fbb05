/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a holder and its guard say to each other, one datagram each. No preprocessor line stands here: the C compiler
 * and cffi both read it.
 *
 *	holder: guard_config, release messages, drop messages, marks	guard: guard_answer, once it is ready
 *	holder: guard_command HOLD					guard: guard_answer; the holder sends buffer after it
 *	holder: guard_command RELEASE					guard: guard_answer, after it released
 *	holder: guard_command END					guard: ends
 *
 * With the guard_config may come two descriptors: a file of the size of guard_page, which both map, and a timerfd. Then
 * the marks of a hold that the holder has ended stay, and its next hold needs no conversation:
 *
 *	FREE --guard: HOLD--> HELD --holder--> LEAVING --holder--> KEPT --holder--> TAKING --holder--> HELD
 *
 *	FREE	no marks: nobody holds
 *	KEPT	the marks are there, and nobody holds; whoever asks for the holder makes the guard give them up: FREE
 *	TAKING	the holder writes down its next hold
 *	HELD	the guard releases or drops if the holder dies or overstays; ENDING: it is about to
 *	LEAVING	the holder is about to release; the guard releases if it dies before it has
 *
 * The holder sets the timer with each hold, so that the guard, which sleeps between holds, begins to look.
 */

enum guard_what { GUARD_HOLD = 1, GUARD_RELEASE, GUARD_END };

enum guard_state { GUARD_FREE, GUARD_KEPT, GUARD_TAKING, GUARD_HELD, GUARD_LEAVING, GUARD_ENDING };
enum guard_time { GUARD_LOOK = 10000000 };	/* nanoseconds between two looks at the holder's threads, while it holds */

struct guard_page {
	uint32_t state;			/* a guard_state, and above its 8 bits the lower 24 of the hold's number */
	uint32_t alive;			/* the guard's thread id; the kernel takes it away when the guard ends: a robust futex */
	uint64_t alive_entry;		/* the kernel's list of such */
	uint32_t drop;			/* what follows is as in guard_command */
	int32_t timer;			/* the holder's descriptor of the timer */
	int64_t timeout;
	int64_t limit;
	int64_t since;			/* 0 for what begun says */
	int64_t begun;			/* CLOCK_MONOTONIC, nanoseconds */
};

/* The lengths are those of the three parts that follow it in the same datagram. */
struct guard_config {
	uint32_t release_length;	/* RTM_NEWQDISC messages */
	uint32_t drop_length;		/* RTM_DELQDISC messages */
	uint32_t marks_length;		/* abstract socket names, each ended by a NUL */
	uint32_t holder;		/* its pid, for those who ask who holds */
};

struct guard_command {
	uint32_t what;
	uint32_t drop;			/* HOLD: drop instead of releasing when the holder dies or overstays */
	uint32_t detached;		/* HOLD: the holder's death means nothing, only the time does */
	uint32_t number;		/* HOLD: this hold's own; RELEASE: of the hold that is to end, 0 for whichever is on */
	int64_t timeout;		/* HOLD: nanoseconds, 0 for none */
	int64_t since;			/* HOLD: CLOCK_REALTIME nanoseconds, for those who ask */
	int64_t limit;			/* HOLD: the plug's limit in bytes as the holder set it, 0 if unknown, likewise */
};

struct guard_answer {
	int32_t error;			/* an errno, 0 for done; where the hold had expired, of what was sent then */
	uint32_t mark;			/* HOLD, EADDRINUSE: which of the marks was taken */
	uint32_t expired;		/* RELEASE: the time had run out, or there was no such hold: nothing was sent now */
	uint32_t unused;
};

/* What a guard tells whoever connects to one of its marks while it holds. */
struct guard_info {
	uint32_t holder;
	uint32_t detached;
	uint32_t guard;			/* its pid; who sees another one is in another pid namespace, and holder means nothing there */
	uint32_t unused;
	int64_t timeout;
	int64_t since;
	int64_t limit;
};
