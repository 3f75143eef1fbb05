/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The functions of turn.c. cffi reads this file, too, so it has no preprocessor lines. */

struct nl_sock;
struct rtnl_qdisc;

extern const char libnlplug_lost[];
int libnlplug_in_turn(int (*set)(struct rtnl_qdisc *qdisc),
		      int (*add)(struct nl_sock *sk, struct rtnl_qdisc *qdisc, int flags),
		      struct nl_sock *sk, struct rtnl_qdisc *qdisc, int flags, char sentence[200]);
int libnlplug_add_without_options(struct nl_sock *sk, struct rtnl_qdisc *qdisc, int flags);
void libnlplug_match_answers(struct nl_sock *sk);
void libnlplug_new_turn(void);
int libnlplug_ifindex(struct nl_sock *sk, const char *device);
