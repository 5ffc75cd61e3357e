/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is given as a dma-buf. The devices that are made up take any descriptor that can be
 * mapped for one, so a memfd stands in for a driver's buffer. */
#include "support/pair.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCKS 32u
#define BLOCK_BYTES 4096u
#define LAYERS 4u
#define OFFSET 8192u /* of the pool in its buffer */

static const struct kvx_geometry geometry = {
	.layers = LAYERS, .planes = 1, .blocks = BLOCKS, .block_bytes = BLOCK_BYTES};
static const size_t bytes = (size_t)LAYERS * BLOCKS * BLOCK_BYTES;
static const struct way verbs = {"verbs", false}, tcp = {"tcp", false};

static int buffer_new(char **address)
{
	int fd = memfd_create("dma-buf", MFD_CLOEXEC);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, (off_t)(bytes + OFFSET)), 0);
	*address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, OFFSET);
	cr_assert_neq(*address, MAP_FAILED);
	return fd;
}

/* The descriptor is not needed once the region is registered. */
static struct kvx_pool *device_pool(struct kvx_engine *engine)
{
	struct kvx_tensor tensors[LAYERS];
	struct kvx_region *region;
	struct kvx_pool *pool;
	char *address;
	int fd = buffer_new(&address);

	expect_ok(kvx_region_register_dmabuf(engine, fd, OFFSET, address, bytes, &region));
	close(fd);
	for (uint32_t i = 0; i < LAYERS; i++)
		tensors[i] = (struct kvx_tensor){region, (uint64_t)i * BLOCKS * BLOCK_BYTES, 0};
	expect_ok(kvx_pool_open(engine, &geometry, tensors, &pool));
	return pool;
}

Test(dmabuf, device_memory_is_moved_by_verbs, .timeout = 60)
{
	struct pair pair;

	pair_open_engines(&pair, &verbs, NULL);
	pair.geometry = geometry;
	pair.from = device_pool(pair.sender);
	pair.to = device_pool(pair.receiver);
	pair_expect_works(&pair, 1);
	pair_close(&pair);
}

/* Also where the engine has tcp: no CPU may touch it. */
Test(dmabuf, a_ticket_for_device_memory_names_verbs_alone, .timeout = 60)
{
	struct drive drive = {0};
	struct way both = {"verbs,tcp", false};
	struct kvx_engine *engine = engine_open(&drive, &both, "receiver", NULL);
	struct kvx_pool *pool = device_pool(engine);
	struct kvx_grant *grant;
	uint32_t block = 3;
	size_t size;

	expect_ok(kvx_grant_open(pool, &block, 1, NULL, 1000, &grant));
	const char *ticket = kvx_grant_ticket(grant, &size);
	cr_assert(memmem(ticket, size, "verbs:", 6));
	cr_assert_not(memmem(ticket, size, "tcp:", 4));
	kvx_grant_close(grant);
	engine_close(&drive, engine);
}

Test(dmabuf, without_verbs_it_is_refused, .timeout = 60)
{
	struct drive drive = {0};
	struct kvx_engine *engine = engine_open(&drive, &tcp, "engine", NULL);
	struct kvx_region *region;
	char *address;
	int fd = buffer_new(&address);

	expect_fail(kvx_region_register_dmabuf(engine, fd, OFFSET, address, bytes, &region),
		    KVX_E_UNSUPPORTED, "verbs", "transports");
	close(fd);
	engine_close(&drive, engine);
}

Test(dmabuf, bad_arguments_are_refused, .timeout = 60)
{
	struct drive drive = {0};
	struct kvx_engine *engine = engine_open(&drive, &verbs, "engine", NULL);
	struct kvx_region *region;
	char *address;
	int fd = buffer_new(&address);

	expect_fail(kvx_region_register_dmabuf(engine, -1, 0, address, bytes, &region),
		    KVX_E_INVALID, "descriptor");
	expect_fail(kvx_region_register_dmabuf(engine, fd, 0, NULL, bytes, &region), KVX_E_INVALID,
		    "address");
	expect_fail(kvx_region_register_dmabuf(engine, fd, 0, address + 1, bytes, &region),
		    KVX_E_INVALID, "aligned");
	close(fd);
	engine_close(&drive, engine);
}
