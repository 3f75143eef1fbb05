/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The functions of libnl-3 and libnl-route-3 that are called, each declared once, here. No preprocessor line stands
 * in this file: cffi reads it as it is, and the C compiler reads it again beside the kernel's headers.
 */

struct nl_sock;
struct nl_msg;
struct nl_cb;
struct nl_object;
struct nlattr;
struct rtnl_link;
struct rtnl_tc;
struct rtnl_qdisc;

/* netlink/version.h: the version of the library that is loaded */
extern const int nl_ver_maj;
extern const int nl_ver_min;
extern const int nl_ver_mic;

/* netlink/errno.h, netlink/socket.h, netlink/netlink.h, netlink/handlers.h, netlink/object.h */
const char *nl_geterror(int error);
int nl_syserr2nlerr(int error);
struct nl_sock *nl_socket_alloc(void);
void nl_socket_free(struct nl_sock *sk);
int nl_connect(struct nl_sock *sk, int protocol);
int nl_socket_get_fd(const struct nl_sock *sk);
int nl_socket_set_nonblocking(const struct nl_sock *sk);
void nl_socket_disable_msg_peek(struct nl_sock *sk);
void nl_socket_disable_seq_check(struct nl_sock *sk);
unsigned int nl_socket_use_seq(struct nl_sock *sk);
struct nl_cb *nl_socket_get_cb(const struct nl_sock *sk);
void nl_cb_put(struct nl_cb *cb);
void nl_cb_overwrite_recv(struct nl_cb *cb, int (*func)(struct nl_sock *, struct sockaddr_nl *, unsigned char **,
							struct ucred **));
int nl_recv(struct nl_sock *sk, struct sockaddr_nl *nla, unsigned char **buf, struct ucred **creds);
int nl_send_sync(struct nl_sock *sk, struct nl_msg *msg);
struct nl_object *nl_object_clone(struct nl_object *obj);

/* netlink/msg.h, netlink/attr.h */
struct nl_msg *nlmsg_alloc_simple(int nlmsgtype, int flags);
void nlmsg_free(struct nl_msg *msg);
int nlmsg_append(struct nl_msg *msg, void *data, size_t len, int pad);
struct nlmsghdr *nlmsg_hdr(struct nl_msg *msg);
int nlmsg_ok(const struct nlmsghdr *nlh, int remaining);
struct nlattr *nlmsg_find_attr(struct nlmsghdr *nlh, int hdrlen, int attrtype);
size_t nla_strlcpy(char *dst, const struct nlattr *nla, size_t dstsize);

/* netlink/route/link.h */
int rtnl_link_build_change_request(struct rtnl_link *orig, struct rtnl_link *changes, int flags,
				   struct nl_msg **result);
int rtnl_link_build_delete_request(const struct rtnl_link *link, struct nl_msg **result);
struct rtnl_link *rtnl_link_alloc(void);
void rtnl_link_put(struct rtnl_link *link);
void rtnl_link_set_ifindex(struct rtnl_link *link, int ifindex);
void rtnl_link_set_ifalias(struct rtnl_link *link, const char *alias);
void rtnl_link_set_flags(struct rtnl_link *link, unsigned int flags);

/* netlink/route/tc.h */
void rtnl_tc_set_ifindex(struct rtnl_tc *tc, int ifindex);
void rtnl_tc_set_parent(struct rtnl_tc *tc, uint32_t parent);
void rtnl_tc_set_handle(struct rtnl_tc *tc, uint32_t handle);
int rtnl_tc_get_ifindex(struct rtnl_tc *tc);
int rtnl_tc_set_kind(struct rtnl_tc *tc, const char *kind);
int rtnl_tc_str2handle(const char *str, uint32_t *res);

/* netlink/route/qdisc.h, netlink/route/qdisc/plug.h */
struct rtnl_qdisc *rtnl_qdisc_alloc(void);
void rtnl_qdisc_put(struct rtnl_qdisc *qdisc);
int rtnl_qdisc_build_add_request(struct rtnl_qdisc *qdisc, int flags, struct nl_msg **result);
int rtnl_qdisc_add(struct nl_sock *sk, struct rtnl_qdisc *qdisc, int flags);
int rtnl_qdisc_plug_buffer(struct rtnl_qdisc *qdisc);
int rtnl_qdisc_plug_release_one(struct rtnl_qdisc *qdisc);
int rtnl_qdisc_plug_release_indefinite(struct rtnl_qdisc *qdisc);
int rtnl_qdisc_plug_set_limit(struct rtnl_qdisc *qdisc, int limit);
