/* A guest's TCP to the router's port that the argument names: so many MiB there, then as many back.
 * Prints MB/s of each. */

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include "timing.h"

enum { CHUNK = 256 << 10 };

static char data[CHUNK];

int main(int count, char **words)
{
	if (count != 3)
		return 2;
	long bytes = atol(words[2]) << 20, left = bytes;
	struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
	inet_pton(AF_INET, "10.0.2.2", &peer.sin_addr);
	int stream = socket(AF_INET, SOCK_STREAM, 0);
	check(connect(stream, (struct sockaddr *)&peer, sizeof peer), "connect");
	double start = now();
	while (left > 0) {
		ssize_t wrote = write(stream, data, left < CHUNK ? left : CHUNK);
		check(wrote, "write");
		left -= wrote;
	}
	shutdown(stream, SHUT_WR);
	/* The peer's first byte says that it has them all. */
	check(read(stream, data, 1), "read");
	double sent = now();
	for (left = bytes; left > 0;) {
		ssize_t got = read(stream, data, CHUNK);
		check(got ? got : -1, "read");
		left -= got;
	}
	double done = now();
	printf("speed %.0f %.0f\n", bytes / 1e6 / (sent - start), bytes / 1e6 / (done - sent));
	return 0;
}
