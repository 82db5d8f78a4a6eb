/* Small files in the folder that the argument names: made, listed with their sizes, removed. Prints seconds of each. */

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "timing.h"

int main(int count, char **words)
{
	if (count != 3)
		return 2;
	int files = atoi(words[2]);
	char name[32], content[100];
	memset(content, 'x', sizeof content);
	check(chdir(words[1]), words[1]);
	double start = now();
	for (int file = 0; file < files; file++) {
		snprintf(name, sizeof name, "file-%d", file);
		int descriptor = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
		check(descriptor, name);
		check(write(descriptor, content, sizeof content), name);
		check(close(descriptor), name);
	}
	double made = now();
	DIR *directory = opendir(".");
	check(directory ? 0 : -1, "opendir");
	int found = 0;
	for (struct dirent *entry; (entry = readdir(directory));) {
		struct stat status;
		check(fstatat(dirfd(directory), entry->d_name, &status, AT_SYMLINK_NOFOLLOW), entry->d_name);
		found += S_ISREG(status.st_mode) && status.st_size == sizeof content;
	}
	closedir(directory);
	double listed = now();
	for (int file = 0; file < files; file++) {
		snprintf(name, sizeof name, "file-%d", file);
		check(unlink(name), name);
	}
	if (found != files)
		return 3;
	printf("seconds %.3f %.3f %.3f\n", made - start, listed - made, now() - listed);
	return 0;
}
