/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The functions of libnl-3 and libnl-route-3 that are called, each declared once, here. No preprocessor line stands
 * in this file: cffi reads it as it is, and the C compiler reads it again beside the kernel's headers.
 */

struct nl_sock;
struct nl_msg;
struct nl_object;
struct nl_cache;
struct rtnl_link;
struct rtnl_tc;
struct rtnl_qdisc;

/* netlink/version.h: the version of the library that is loaded */
extern const int nl_ver_maj;
extern const int nl_ver_min;
extern const int nl_ver_mic;

/* netlink/errno.h, netlink/socket.h, netlink/netlink.h */
const char *nl_geterror(int error);
struct nl_sock *nl_socket_alloc(void);
void nl_socket_free(struct nl_sock *sk);
int nl_connect(struct nl_sock *sk, int protocol);
int nl_socket_get_fd(const struct nl_sock *sk);
int nl_socket_set_nonblocking(const struct nl_sock *sk);
void nl_socket_disable_seq_check(struct nl_sock *sk);
void nl_socket_enable_msg_peek(struct nl_sock *sk);
void nl_socket_disable_msg_peek(struct nl_sock *sk);
int nl_socket_modify_cb(struct nl_sock *sk, enum nl_cb_type type, enum nl_cb_kind kind,
			int (*func)(struct nl_msg *msg, void *arg), void *arg);
int nl_socket_modify_err_cb(struct nl_sock *sk, enum nl_cb_kind kind,
			    int (*func)(struct sockaddr_nl *nla, struct nlmsgerr *nlerr, void *arg), void *arg);
void nl_complete_msg(struct nl_sock *sk, struct nl_msg *msg);
int nl_send_auto(struct nl_sock *sk, struct nl_msg *msg);
int nl_send_iovec(struct nl_sock *sk, struct nl_msg *msg, struct iovec *iov, unsigned int iovlen);
int nl_wait_for_ack(struct nl_sock *sk);

/* netlink/msg.h, netlink/attr.h */
struct nl_msg *nlmsg_alloc_simple(int nlmsgtype, int flags);
void nlmsg_free(struct nl_msg *msg);
int nlmsg_append(struct nl_msg *msg, void *data, size_t len, int pad);
struct nlmsghdr *nlmsg_hdr(struct nl_msg *msg);
int nla_put_string(struct nl_msg *msg, int attrtype, const char *str);
int nl_msg_parse(struct nl_msg *msg, void (*cb)(struct nl_object *obj, void *arg), void *arg);

/* netlink/object.h, netlink/cache.h */
void nl_object_get(struct nl_object *obj);
void nl_object_put(struct nl_object *obj);
void nl_cache_free(struct nl_cache *cache);
struct nl_object *nl_cache_get_first(struct nl_cache *cache);
struct nl_object *nl_cache_get_next(struct nl_object *obj);

/* netlink/route/link.h */
int rtnl_link_build_get_request(int ifindex, const char *name, struct nl_msg **result);
int rtnl_link_get_ifindex(struct rtnl_link *link);
char *rtnl_link_get_name(struct rtnl_link *link);

/* netlink/route/tc.h */
void rtnl_tc_set_ifindex(struct rtnl_tc *tc, int ifindex);
int rtnl_tc_get_ifindex(struct rtnl_tc *tc);
void rtnl_tc_set_parent(struct rtnl_tc *tc, uint32_t parent);
uint32_t rtnl_tc_get_parent(struct rtnl_tc *tc);
void rtnl_tc_set_handle(struct rtnl_tc *tc, uint32_t handle);
uint32_t rtnl_tc_get_handle(struct rtnl_tc *tc);
int rtnl_tc_set_kind(struct rtnl_tc *tc, const char *kind);
char *rtnl_tc_get_kind(struct rtnl_tc *tc);
uint64_t rtnl_tc_get_stat(struct rtnl_tc *tc, enum rtnl_tc_stat id);
int rtnl_tc_str2handle(const char *str, uint32_t *res);
char *rtnl_tc_handle2str(uint32_t handle, char *buf, size_t len);

/* netlink/route/qdisc.h, netlink/route/qdisc/plug.h */
struct rtnl_qdisc *rtnl_qdisc_alloc(void);
void rtnl_qdisc_put(struct rtnl_qdisc *qdisc);
int rtnl_qdisc_alloc_cache(struct nl_sock *sk, struct nl_cache **result);
int rtnl_qdisc_build_add_request(struct rtnl_qdisc *qdisc, int flags, struct nl_msg **result);
int rtnl_qdisc_add(struct nl_sock *sk, struct rtnl_qdisc *qdisc, int flags);
int rtnl_qdisc_delete(struct nl_sock *sk, struct rtnl_qdisc *qdisc);
int rtnl_qdisc_plug_buffer(struct rtnl_qdisc *qdisc);
int rtnl_qdisc_plug_release_one(struct rtnl_qdisc *qdisc);
int rtnl_qdisc_plug_release_indefinite(struct rtnl_qdisc *qdisc);
int rtnl_qdisc_plug_set_limit(struct rtnl_qdisc *qdisc, int limit);
