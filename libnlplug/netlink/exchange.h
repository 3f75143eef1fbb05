/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The functions of exchange.c. cffi reads this file, too, so it has no preprocessor lines. */

struct libnlplug_line;

struct libnlplug_answer {
	int error;		/* -errno: the request was not sent; errno: a part of the answer is missing; 0: complete */
	size_t length;
	char messages[];	/* each begins with a struct nlmsghdr */
};

struct libnlplug_line *libnlplug_line_new(int fd);
void libnlplug_line_close(struct libnlplug_line *line);
void libnlplug_line_free(struct libnlplug_line *line);

struct libnlplug_sizes {	/* of a socket's buffers, in bytes */
	int send;
	int receive;
};

int libnlplug_line_enlarge(struct libnlplug_line *line, int wanted, struct libnlplug_sizes *sizes);
struct libnlplug_answer *libnlplug_exchange(struct libnlplug_line *line, const char *messages, size_t length,
					    uint32_t last);

void libnlplug_answer_free(struct libnlplug_answer *answer);

struct libnlplug_qdisc {
	int ifindex;
	uint32_t handle;
	uint32_t parent;
	char kind[16];
	uint64_t qlen;
	uint64_t backlog;
	uint64_t drops;
	uint64_t packets;
	uint64_t bytes;
};

int libnlplug_read_qdisc(const char *message, size_t length, struct libnlplug_qdisc *qdisc);

struct libnlplug_link {
	int ifindex;
	uint32_t mtu;
	uint32_t txqueuelen;
	char name[16];
};

int libnlplug_read_link(const char *message, size_t length, struct libnlplug_link *link);
