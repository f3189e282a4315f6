/* The load: many clients in one process, each request counted by what became of it, and how long it took.

   client -c CLIENTS -s SECONDS [-r RATE] [-n REQUESTS] [-k] [-w TIMEOUT] ADDRESS PORT

   Without -r each client asks again as soon as it has its answer (saturation). With -r so many requests a second fall
   due whether or not earlier ones were answered, and a latency counts from when its request was due: a service that
   stands still for a second shows as a second for everyone who would have come, not for one client.
   -k keeps connections; otherwise each request is a connection of its own. After a failure a client rests for 10 ms,
   so that a refusal, which takes no time, does not count a thousand times. One JSON object on stdout. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REST_NS 10000000LL
#define FINE 64 /* buckets to each power of two: an error of 1.6 % */
#define BUCKETS (40 * FINE)
#define HIGHEST_PID (1 << 22)

enum kind { OK, REFUSED, RESET_CONNECTING, RESET, CUT, TORN, TIMEOUT, BAD, OTHER, IDLE_CLOSED, KINDS };
static const char *const names[KINDS] = {"ok", "refused", "reset_connecting", "reset", "cut", "torn", "timeout", "bad",
                                         "other", "idle_closed"};

enum phase { FREE, CONNECTING, WAITING, IDLE, RESTING };

struct client {
	enum phase phase;
	int fd, used, reused;
	long long due, began;
	char answer[1024];
};

static struct client *clients;
static struct sockaddr_in server;
static int epoll, keep, stack_top;
static int *stack, *resting; /* free clients; those that rest, oldest first, in a ring */
static size_t rest_head, rest_count, n_clients = 1;
static long long counts[KINDS], histogram[BUCKETS], longest, busy, last_answer, longest_gap, timeout_ns = 5000000000LL;
static unsigned char seen[HIGHEST_PID / 8];
static long processes_seen;
static const char *request;
static size_t request_length;

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static size_t bucket(long long us)
{
	int shift = us < FINE ? 0 : 63 - __builtin_clzll(us) - 6;
	size_t at = (size_t)shift * FINE + (size_t)(us >> shift);
	return at < BUCKETS ? at : BUCKETS - 1;
}

static long long value(size_t at)
{
	if (at < 2 * FINE)
		return (long long)at;
	int shift = (int)(at / FINE) - 1;
	return (long long)(at - (size_t)shift * FINE) << shift;
}

static void hang_up(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

static void finish(struct client *c, enum kind kind)
{
	long long t = now(), us = (t - c->due) / 1000;

	counts[kind]++;
	busy--;
	if (kind == OK) {
		histogram[bucket(us)]++;
		if (us > longest)
			longest = us;
		if (last_answer && t - last_answer > longest_gap)
			longest_gap = t - last_answer;
		last_answer = t;
		if (keep) {
			c->phase = IDLE;
			stack[stack_top++] = (int)(c - clients);
			return;
		}
	}
	hang_up(c);
	if (kind == OK || kind == IDLE_CLOSED) {
		c->phase = FREE;
		stack[stack_top++] = (int)(c - clients);
	} else {
		c->phase = RESTING;
		c->began = t;
		resting[(rest_head + rest_count++) % n_clients] = (int)(c - clients);
	}
}

static enum kind kind_of(struct client *c, int error)
{
	if (c->used)
		return TORN;
	if (c->reused && (error == ECONNRESET || error == EPIPE))
		return IDLE_CLOSED;
	if (error == ECONNREFUSED)
		return REFUSED;
	if (error == ETIMEDOUT)
		return TIMEOUT;
	if (error == ECONNRESET || error == EPIPE)
		return c->phase == CONNECTING ? RESET_CONNECTING : RESET;
	return OTHER;
}

static void ask(struct client *c)
{
	ssize_t n = send(c->fd, request, request_length, MSG_NOSIGNAL);
	if (n == (ssize_t)request_length)
		c->phase = WAITING;
	else if (n >= 0 || (errno != EAGAIN && errno != ENOTCONN))
		finish(c, n >= 0 ? OTHER : kind_of(c, errno));
}

static void begin(struct client *c, long long due)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
	int one = 1;

	c->reused = c->phase == IDLE;
	c->due = due;
	c->began = now();
	c->used = 0;
	busy++;
	if (c->reused) {
		c->phase = WAITING;
		ask(c);
		return;
	}
	c->phase = CONNECTING;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0) {
		finish(c, OTHER);
		return;
	}
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) {
		finish(c, kind_of(c, errno));
		return;
	}
	epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
	ask(c);
}

/* 1 when the whole answer is here: the head, and as much body as it announces. Each body ends with a pid. */
static int complete(struct client *c)
{
	char *body, *length, *number;

	c->answer[c->used] = 0;
	body = strstr(c->answer, "\r\n\r\n");
	length = strcasestr(c->answer, "\r\ncontent-length:");
	if (!body || !length || c->answer + c->used - (body + 4) < atoi(length + 17))
		return 0;
	number = strrchr(body, ' ');
	if (number) {
		long pid = atol(number + 1);
		if (pid > 0 && pid < HIGHEST_PID && !(seen[pid / 8] & (1 << pid % 8))) {
			seen[pid / 8] |= (unsigned char)(1 << pid % 8);
			processes_seen++;
		}
	}
	return 1;
}

static void hear(struct client *c)
{
	for (;;) {
		ssize_t n = recv(c->fd, c->answer + c->used, sizeof c->answer - 1 - (size_t)c->used, 0);
		if (n > 0) {
			c->used += (int)n;
			if (complete(c)) {
				finish(c, strncmp(c->answer, "HTTP/1.1 200", 12) && strncmp(c->answer, "HTTP/1.0 200", 12) ? BAD : OK);
				return;
			}
			if (c->used == (int)sizeof c->answer - 1) {
				finish(c, BAD);
				return;
			}
		} else if (n == 0) {
			finish(c, c->used ? TORN : c->reused ? IDLE_CLOSED : CUT);
			return;
		} else {
			if (errno != EAGAIN)
				finish(c, kind_of(c, errno));
			return;
		}
	}
}

static void on_event(struct client *c, uint32_t events)
{
	if (c->phase == IDLE) { /* closed while nothing was asked: no failure */
		if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) {
			hang_up(c);
			c->phase = FREE;
		}
		return;
	}
	if (c->phase == CONNECTING)
		ask(c);
	if (c->phase == WAITING && (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)))
		hear(c);
}

static long long percentile(double share)
{
	long long left = (long long)(share * (double)counts[OK]);
	for (size_t i = 0; i < BUCKETS; i++)
		if ((left -= histogram[i]) < 0)
			return value(i);
	return longest;
}

int main(int argc, char **argv)
{
	double seconds = 1, rate = 0;
	long long most = -1, started = 0;
	int option;

	while ((option = getopt(argc, argv, "c:s:r:n:kw:")) != -1)
		switch (option) {
		case 'c': n_clients = (size_t)atol(optarg); break;
		case 's': seconds = atof(optarg); break;
		case 'r': rate = atof(optarg); break;
		case 'n': most = atoll(optarg); break;
		case 'k': keep = 1; break;
		case 'w': timeout_ns = (long long)(atof(optarg) * 1e9); break;
		default: return 2;
		}
	server.sin_family = AF_INET;
	if (argc - optind != 2 || n_clients < 1 || inet_pton(AF_INET, argv[optind], &server.sin_addr) != 1) {
		fprintf(stderr, "client: give an IPv4 address and a port\n");
		return 2;
	}
	server.sin_port = htons((uint16_t)atoi(argv[optind + 1]));
	request = keep ? "GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
	               : "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
	request_length = strlen(request);

	struct rlimit limit;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < n_clients + 16) {
		fprintf(stderr, "client: %zu clients need a limit of open files of %zu; it is %llu\n", n_clients, n_clients + 16,
		        (unsigned long long)limit.rlim_cur);
		return 2;
	}

	clients = calloc(n_clients, sizeof *clients);
	stack = calloc(n_clients, sizeof *stack);
	resting = calloc(n_clients, sizeof *resting);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (!clients || !stack || !resting || epoll < 0)
		return 2;
	for (size_t i = n_clients; i-- > 0;) {
		clients[i].fd = -1;
		stack[stack_top++] = (int)i;
	}

	long long start = now(), end = start + (long long)(seconds * 1e9), swept = start, t = start, stopped = start;
	struct epoll_event events[512];
	for (;;) {
		long long next = 0; /* when the next request is due, if it is not at once */
		t = now();
		int open = t < end && (most < 0 || started < most);
		if (open)
			stopped = t;
		if (!open && busy == 0)
			break;
		while (rest_count && t - clients[resting[rest_head]].began >= REST_NS) {
			clients[resting[rest_head]].phase = FREE;
			stack[stack_top++] = resting[rest_head];
			rest_head = (rest_head + 1) % n_clients;
			rest_count--;
		}
		/* one round's worth only, so that answers are read between */
		for (int i = 0; open && stack_top && i < 64 && (most < 0 || started < most); i++) {
			long long due = rate > 0 ? start + (long long)((double)started / rate * 1e9) : now();
			if (due > t && rate > 0) {
				next = due;
				break;
			}
			started++;
			begin(&clients[stack[--stack_top]], due);
		}
		long long wait = stack_top && open && rate <= 0 ? 0 : 1000000;
		if (next && next - now() < wait)
			wait = next > now() ? next - now() : 0;
		/* to the nanosecond: with epoll_wait(2) half of the requests would begin half a millisecond late */
		int n = epoll_pwait2(epoll, events, 512, &(struct timespec){.tv_nsec = (long)wait}, NULL);
		for (int i = 0; i < n; i++)
			on_event(events[i].data.ptr, events[i].events);
		if (t - swept > 50000000) {
			swept = t;
			for (size_t i = 0; i < n_clients; i++)
				if ((clients[i].phase == CONNECTING || clients[i].phase == WAITING) && t - clients[i].began > timeout_ns)
					finish(&clients[i], TIMEOUT);
		}
	}

	long long failed = 0;
	printf("{\"seconds\": %.6f, \"requests\": %lld", (double)(stopped - start) / 1e9, started);
	for (int i = 0; i < KINDS; i++) {
		printf(", \"%s\": %lld", names[i], counts[i]);
		if (i != OK && i != IDLE_CLOSED)
			failed += counts[i];
	}
	printf(", \"failed\": %lld, \"p50_us\": %lld, \"p99_us\": %lld, \"p999_us\": %lld, \"longest_us\": %lld, "
	       "\"longest_gap_us\": %lld, \"processes_seen\": %ld}\n",
	       failed, percentile(0.5), percentile(0.99), percentile(0.999), longest, longest_gap / 1000, processes_seen);
	return 0;
}
