# SPDX-License-Identifier: GPL-2.0-or-later
"""libnlplug._libnl: libnl's functions as they are, compiled by cffi in its out-of-line API mode.

The libraries are linked by soname, so no -dev package of libnl is needed, and bound when the module is loaded
(-z now), so a libnl that lacks a function is an ImportError and never a crash at the first call.
"""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
HEADERS = HERE / "vendor_headers"

ffi = FFI()

ffi.cdef(
    """
    /* the kernel's structures, as far as they are read or written here */
    struct sockaddr_nl { ...; };
    struct iovec { void *iov_base; size_t iov_len; };
    struct nlmsghdr { uint32_t nlmsg_len; uint16_t nlmsg_type; uint16_t nlmsg_flags; uint32_t nlmsg_seq; ...; };
    struct nlmsgerr { int error; ...; };
    struct tcmsg { int tcm_ifindex; uint32_t tcm_handle; uint32_t tcm_parent; ...; };

    /* the kernel's constants: the compiler takes them from linux/netlink.h, rtnetlink.h, pkt_sched.h and if.h */
    #define NETLINK_ROUTE ...
    #define SOL_NETLINK ...
    #define NETLINK_EXT_ACK ...
    #define NETLINK_CAP_ACK ...
    #define NLM_F_REQUEST ...
    #define NLM_F_CREATE ...
    #define NLM_F_EXCL ...
    #define NLM_F_ECHO ...
    #define NLM_F_CAPPED ...
    #define NLM_F_ACK_TLVS ...
    #define NLMSG_HDRLEN ...
    #define NLMSG_ALIGNTO ...
    #define NLMSGERR_ATTR_MSG ...
    #define RTM_NEWQDISC ...
    #define RTM_DELQDISC ...
    #define RTM_GETQDISC ...
    #define TCA_KIND ...
    #define TC_H_ROOT ...
    #define TC_H_INGRESS ...
    #define TC_H_UNSPEC ...
    #define CLONE_NEWNET ...
    #define IFNAMSIZ ...
    #define SIOCGSKNS ...

    /* libnl's enumerations; the numbers are the compiler's too */
    enum nl_cb_action { NL_STOP, ... };
    enum nl_cb_kind { NL_CB_CUSTOM, ... };
    enum nl_cb_type { NL_CB_VALID, ... };
    enum rtnl_tc_stat { RTNL_TC_PACKETS, RTNL_TC_BYTES, RTNL_TC_QLEN, RTNL_TC_BACKLOG, RTNL_TC_DROPS, ... };

    /* spawn.c */
    int libnlplug_spawn(const char *path, char *const argv[], int commands);

    /* libc */
    int ioctl(int fd, unsigned long request, ...);
    int setns(int fd, int nstype);
    int setsockopt(int sockfd, int level, int optname, const void *optval, unsigned int optlen);
    ssize_t recv(int sockfd, void *buf, size_t len, int flags);

    /* what libnl calls back: see route.py */
    extern "Python" int libnlplug_on_error(struct sockaddr_nl *nla, struct nlmsgerr *nlerr, void *arg);
    extern "Python" int libnlplug_on_message(struct nl_msg *msg, void *arg);
    extern "Python" void libnlplug_on_object(struct nl_object *obj, void *arg);
    """
)
ffi.cdef((HEADERS / "libnl_functions.h").read_text())
ffi.cdef((HERE / "libnlplug" / "guard_protocol.h").read_text())

ffi.set_source(
    "libnlplug._libnl",
    """
    #define _GNU_SOURCE
    #include <sched.h>
    #include <stdint.h>
    #include <sys/socket.h>
    #include <sys/types.h>
    #include <sys/uio.h>
    #include <sys/ioctl.h>
    #include <linux/if.h>
    #include <linux/netlink.h>
    #include <linux/rtnetlink.h>
    #include <linux/pkt_sched.h>
    #include <linux/sockios.h>
    #include "libnl_enums.h"
    #include "libnl_functions.h"
    #include "guard_protocol.h"

    int libnlplug_spawn(const char *path, char *const argv[], int commands);
    """,
    sources=["libnlplug/spawn.c"],
    include_dirs=["vendor_headers", "libnlplug"],
    depends=["vendor_headers/libnl_enums.h", "vendor_headers/libnl_functions.h", "libnlplug/guard_protocol.h"],
    extra_link_args=["-l:libnl-route-3.so.200", "-l:libnl-3.so.200", "-Wl,-z,now"],
    py_limited_api=True,
)
