/* SPDX-License-Identifier: Apache-2.0 */
/* Bad input from the caller: a clear error, and an engine that works afterwards. */
#include "support/pair.h"
#include "support/sockets.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const struct kvx_geometry geometry = {
	.layers = 2, .planes = 2, .blocks = 16, .block_bytes = 4096};

static const struct way any_way = {"loop", true};

/* --- regions and pools --- */

Test(refuse, memory_that_cannot_be_registered)
{
	struct drive drive = {0};
	struct kvx_engine *engine = engine_open(&drive, &any_way, "engine", NULL);
	struct kvx_region *region, *other;
	char *memory =
		mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	expect_fail(kvx_region_register(engine, NULL, 4096, &region), KVX_E_INVALID, "region");
	expect_fail(kvx_region_register(engine, memory, 0, &region), KVX_E_INVALID, "region");
	expect_fail(kvx_region_register(engine, memory + 2, 4096, &region), KVX_E_INVALID, "region",
		    "aligned");
	expect_fail(kvx_region_register(engine, memory, SIZE_MAX, &region), KVX_E_INVALID, "region",
		    "address space");
	munmap(memory + 4096, 4096);
	expect_fail(kvx_region_register(engine, memory, 3 * 4096, &region), KVX_E_INVALID, "region",
		    "not all of it is mapped", "map it first");
	expect_ok(kvx_region_register(engine, memory + 2 * 4096, 2 * 4096, &region));
	expect_fail(kvx_region_register(engine, memory + 3 * 4096, 4096, &other), KVX_E_INVALID,
		    "overlaps");
	cr_assert_eq(kvx_region_address(region), memory + 2 * 4096);
	cr_assert_eq(kvx_region_bytes(region), 2 * 4096);
	expect_ok(kvx_region_close(region));
	expect_ok(kvx_region_register(engine, memory + 3 * 4096, 4096, &other));
	expect_fail(kvx_region_alloc(engine, 0, &region), KVX_E_INVALID, "region");
	expect_fail(kvx_region_alloc(engine, SIZE_MAX, &region), KVX_E_INVALID, "memory");
	int error = kvx_region_alloc(engine, (size_t)1 << 60, &region);
	expect_fail(error, KVX_E_MEMORY, "cannot allocate");
	engine_close(&drive, engine);
}

static void expect_no_pool(struct kvx_engine *engine, struct kvx_geometry shape,
			   const struct kvx_tensor *tensors, const char *word)
{
	struct kvx_pool *pool;

	expect_fail(kvx_pool_open(engine, &shape, tensors, &pool), KVX_E_INVALID, "pool", word);
}

Test(refuse, shapes_that_no_pool_has)
{
	struct drive drive = {0};
	struct kvx_engine *engine = engine_open(&drive, &any_way, "engine", NULL);
	struct kvx_geometry shape = {.layers = 1, .planes = 1, .blocks = 4, .block_bytes = 1024},
			    bad;
	struct kvx_region *region;
	struct kvx_pool *pool;

	expect_ok(kvx_region_alloc(engine, 4096, &region));
	struct kvx_tensor tensor = {region, 0, 0};
	bad = shape, bad.layers = 0;
	expect_no_pool(engine, bad, &tensor, "0 layers");
	bad = shape, bad.layers = KVX_LAYERS_MAX + 1;
	expect_no_pool(engine, bad, &tensor, "1 to 511");
	bad = shape, bad.planes = 0;
	expect_no_pool(engine, bad, &tensor, "0 planes");
	bad = shape, bad.planes = KVX_PLANES_MAX + 1;
	expect_no_pool(engine, bad, &tensor, "1 to 8");
	bad = shape, bad.blocks = 0;
	expect_no_pool(engine, bad, &tensor, "no blocks");
	bad = shape, bad.block_bytes = 0;
	expect_no_pool(engine, bad, &tensor, "multiple of 4");
	bad = shape, bad.block_bytes = 1022;
	expect_no_pool(engine, bad, &tensor, "multiple of 4");
	bad = shape, memset(bad.dtype, 'x', sizeof(bad.dtype));
	expect_no_pool(engine, bad, &tensor, "dtype");
	bad = shape, bad.plane_stride = 1024;
	expect_no_pool(engine, bad, &tensor, "plane_stride 1024 of 1 planes");
	bad.planes = 2, bad.plane_stride = 1020;
	expect_no_pool(engine, bad, &tensor, "plane_stride 1020 of 2 planes");
	bad.plane_stride = 1026;
	expect_no_pool(engine, bad, &tensor, "multiple of 4");
	bad.plane_stride = UINT32_MAX - 3;
	expect_no_pool(engine, bad, &tensor, "below 4 GiB");
	bad = shape, bad.blocks = 5;
	expect_no_pool(engine, bad, &tensor, "leave their region of 4096 bytes");
	bad = shape, bad.blocks = UINT32_MAX;
	expect_no_pool(engine, bad, &tensor, "leave their region");
	expect_fail(kvx_pool_alloc(engine,
				   &(struct kvx_geometry){.layers = 511,
							  .planes = 8,
							  .blocks = UINT32_MAX,
							  .block_bytes = UINT32_MAX - 3},
				   &pool),
		    KVX_E_MEMORY, "address space");
	expect_fail(kvx_pool_open(engine, NULL, &tensor, &pool), KVX_E_INVALID, "NULL");
	expect_ok(kvx_pool_open(engine, &shape, &tensor, &pool));
	cr_assert_null(kvx_pool_block(pool, 1, 0, 0));
	cr_assert_null(kvx_pool_block(pool, 0, 1, 0));
	cr_assert_null(kvx_pool_block(pool, 0, 0, 4));
	cr_assert_not_null(kvx_pool_block(pool, 0, 0, 3));
	engine_close(&drive, engine);
}

Test(refuse, tensors_that_do_not_fit)
{
	struct drive drive = {0};
	struct kvx_engine *engine = engine_open(&drive, &any_way, "engine", NULL);
	struct kvx_engine *stranger = engine_open(&drive, &any_way, "stranger", NULL);
	struct kvx_geometry shape = {.layers = 1, .planes = 2, .blocks = 4, .block_bytes = 1024};
	struct kvx_region *region, *foreign;

	expect_ok(kvx_region_alloc(engine, 16384, &region));
	expect_ok(kvx_region_alloc(stranger, 16384, &foreign));
	const struct {
		struct kvx_tensor tensors[2];
		const char *word;
	} cases[] = {
		{{{region, 2, 0}, {region, 8192, 0}}, "multiples of 4"},
		{{{region, 0, 1026}, {region, 8192, 0}}, "multiples of 4"},
		{{{region, 0, 1020}, {region, 8192, 0}}, "stride"},
		{{{region, 0, 0}, {region, 12292, 0}}, "leave their region"},
		{{{region, 0, 0}, {region, UINT64_MAX - 3, 0}}, "leave their region"},
		{{{region, 0, UINT64_MAX - 3}, {region, 8192, 0}}, "leave their region"},
		{{{region, 0, 0}, {region, 4092, 0}}, "overlaps"},
		{{{region, 0, 0}, {region, 0, 0}}, "overlaps"},
		{{{region, 0, 2048}, {region, 1020, 2048}}, "overlaps"},
		{{{region, 0, 2048}, {region, 1024, 4096}}, "overlaps"},
		{{{foreign, 0, 0}, {region, 8192, 0}}, "layer 0 plane 0: no region of this engine"},
		{{{region, 0, 0}, {NULL, 0, 0}}, "layer 0 plane 1: no region"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		expect_no_pool(engine, shape, cases[i].tensors, cases[i].word);
	struct kvx_tensor fine[] = {{region, 0, 2048}, {region, 1024, 2048}};
	struct kvx_tensor after[] = {{region, 0, 1024}, {region, 4096, 1024}};
	struct kvx_tensor before[] = {{region, 1024, 2048}, {region, 0, 2048}};
	struct kvx_pool *pool;
	expect_ok(kvx_pool_open(engine, &shape, fine, &pool));
	shape.plane_stride = 1024;
	expect_no_pool(engine, shape, after, "plane_stride 1024, but");
	expect_no_pool(engine, shape, before, "plane_stride 1024, but");
	expect_ok(kvx_pool_open(engine, &shape, fine, &pool));
	engine_close(&drive, engine);
	engine_close(&drive, stranger);
}

/* --- streams and tickets --- */

Test(refuse, tables_that_the_ticket_does_not_fit)
{
	uint32_t repeated[] = {1, 2, 1}, outside[] = {1, 2, 16}, fine[] = {1, 2, 3};
	struct kvx_stream *stream;
	struct request request;
	struct pair pair;
	size_t bytes;

	pair_open(&pair, &any_way, &geometry, NULL);
	request_init(&request, &pair, 1, 0, 3, TABLE_IDENTITY);
	request_grant(&request, 10000);
	const void *ticket = kvx_grant_ticket(request.grant, &bytes);
	expect_fail(kvx_stream_open(pair.from, repeated, 3, NULL, ticket, bytes, &stream),
		    KVX_E_INVALID, "stream", "block 1", "entry 2");
	expect_fail(kvx_stream_open(pair.from, outside, 3, NULL, ticket, bytes, &stream),
		    KVX_E_INVALID, "stream", "block 16", "0 to 15");
	expect_fail(kvx_stream_open(pair.from, fine, 2, NULL, ticket, bytes, &stream),
		    KVX_E_INVALID, "stream", "2 blocks", "3");
	expect_fail(kvx_stream_open(pair.from, fine, 0, NULL, ticket, bytes, &stream),
		    KVX_E_INVALID, "stream", "0 blocks");
	expect_fail(kvx_stream_open(pair.from, NULL, 3, NULL, ticket, bytes, &stream),
		    KVX_E_INVALID, "NULL");
	request_close(&request);
	pair_expect_works(&pair, 2);
	pair_close(&pair);
}

Test(refuse, tickets_that_were_cut_altered_or_are_none)
{
	struct kvx_stream *stream;
	struct request request;
	struct pair pair;
	size_t bytes;

	pair_open(&pair, &any_way, &geometry, NULL);
	request_init(&request, &pair, 1, 0, 16, TABLE_RANDOM);
	request_grant(&request, 10000);
	const void *ticket = kvx_grant_ticket(request.grant, &bytes);
	uint8_t *copy = malloc(bytes + 1);
	memcpy(copy, ticket, bytes);
	copy[bytes] = 0;
	for (size_t cut = 0; cut < bytes; cut++) {
		uint8_t *exact =
			malloc(cut ? cut : 1); /* so that a sanitizer sees a read past it */
		memcpy(exact, ticket, cut);
		expect_fail(kvx_stream_open(pair.from, request.from, 16, NULL, exact, cut, &stream),
			    KVX_E_TICKET, "ticket");
		free(exact);
	}
	expect_fail(kvx_stream_open(pair.from, request.from, 16, NULL, copy, bytes + 1, &stream),
		    KVX_E_TICKET, "padded");
	for (size_t at = 0; at < bytes; at++) {
		for (int bit = 0; bit < 8; bit++) {
			copy[at] ^= (uint8_t)(1 << bit);
			int error = kvx_stream_open(pair.from, request.from, 16, NULL, copy, bytes,
						    &stream);
			bool version = at >= 4 && at < 8;
			cr_assert_eq(error, version ? KVX_E_VERSION : KVX_E_TICKET, "byte %zu", at);
			copy[at] ^= (uint8_t)(1 << bit);
		}
	}
	free(copy);
	request_stream(&request);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

/* --- engines and addresses --- */

static void expect_no_engine(const char *transport, const char *option, int code,
			     const char *object, const char *word)
{
	const char *const options[] = {option, NULL};
	struct way way = {transport, true};
	struct kvx_engine *engine;

	expect_fail(engine_try(&way, "engine", options, &engine), code, object, word);
}

Test(refuse, engines_that_cannot_be)
{
	char long_name[KVX_NAME_MAX + 8] = "name=";
	uint32_t descriptors = count_descriptors(), threads = count_threads();

	memset(long_name + 5, 'n', KVX_NAME_MAX + 1);
	expect_no_engine("loop", long_name, KVX_E_INVALID, "engine", "63 characters");
	expect_no_engine("loop", "name=a\nb", KVX_E_INVALID, "engine", "control character");
	expect_no_engine("pigeon", "name=x", KVX_E_UNSUPPORTED, "pigeon", "auto for all");
	expect_no_engine("tcp,tcp", "name=x", KVX_E_INVALID, "tcp", "twice");
	expect_no_engine("tcp", "listen=nowhere", KVX_E_INVALID, "nowhere", "HOST:PORT");
	expect_no_engine("tcp", "listen=127.0.0.1:65536", KVX_E_INVALID, "65536", "HOST:PORT");
	expect_no_engine("tcp", "listen=host.invalid:0", KVX_E_INVALID, "host.invalid", "tcp");
	expect_no_engine("tcp", "listen=0.0.0.0:0", KVX_E_INVALID, "0.0.0.0",
			 "unauthenticated_network");
	expect_no_engine("tcp", "listen=[::]:0", KVX_E_INVALID, "tcp", "unauthenticated_network");
	expect_fail(kvx_engine_open(NULL, NULL), KVX_E_INVALID, "engine", "NULL");
	cr_assert_eq(count_descriptors(), descriptors);
	cr_assert_eq(count_threads(), threads);
}

Test(refuse, a_port_in_use)
{
	struct way way = {"tcp", true};
	struct drive drive = {0};
	struct kvx_engine *first = engine_open(&drive, &way, "first", NULL);
	char option[64];

	snprintf(option, sizeof(option), "listen=127.0.0.1:%u",
		 tcp_port_of(kvx_engine_address(first)));
	expect_no_engine("tcp", option, KVX_E_SYSTEM, "tcp", "in use");
	engine_close(&drive, first);
	const char *const options[] = {option, NULL};
	engine_close(&drive, engine_open(&drive, &way, "second", options));
}

Test(refuse, addresses_that_lead_nowhere, .timeout = 60)
{
	struct way way = {"auto", true};
	struct drive drive = {0};
	struct kvx_engine *engine = engine_open(&drive, &way, "engine", NULL);
	static const struct {
		const char *address, *word;
	} cases[] = {
		{"", "empty"},
		{"127.0.0.1:4711", "127.0.0.1"},
		{"tcp", "transport:address"},
		{"pigeon:home", "pigeon"},
		{"tcp:", "HOST:PORT"},
		{"tcp:127.0.0.1", "HOST:PORT"},
		{"tcp:127.0.0.1:0", "port 0"},
		{"tcp:127.0.0.1:99999", "HOST:PORT"},
		{"tcp:::1:4711", "HOST:PORT"},
		{"tcp:nobody.invalid:4711", "nobody.invalid"},
		{"loop:xyz", "hexadecimal"},
		{"shm:xyz", "shm"},
	};
	struct kvx_peer *peer;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		expect_fail(kvx_peer_connect(engine, cases[i].address, &peer), KVX_E_INVALID,
			    cases[i].word);
	char *long_address = malloc(100000);
	memset(long_address, 'a', 99999);
	long_address[99999] = 0;
	expect_fail(kvx_peer_connect(engine, long_address, &peer), KVX_E_INVALID, "address",
		    "longer");
	free(long_address);
	expect_fail(kvx_peer_connect(engine, NULL, &peer), KVX_E_INVALID, "peer", "NULL");
	engine_close(&drive, engine);
}
