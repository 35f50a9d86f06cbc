/* SPDX-License-Identifier: Apache-2.0
 *
 * plt: reads .plt files, which hold trained networks in few bytes. docs/plt.md specifies them; its section numbers
 * stand at the parts of this file.
 *
 *     cc -O2 -o plt plt.c
 *
 *     plt IN.plt OUT.plm      unpack into a safetensors file with the graph in its metadata
 *     plt --list IN.plt       tensors: name, type, sizes, form and coder
 *     plt --check IN.plt...   unpack each into nothing; a line each: "ok", the tensors and a checksum, or what is wrong
 *
 * Exit code: 0, or 2 and one line on the standard error output where a file is damaged or cannot be read or written.
 * A stream is in memory at a time. Every size is checked against the limits of section 10 before memory is taken.
 */

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define NO_RETURN __attribute__((noreturn))
#define LIKE_PRINTF __attribute__((format(printf, 1, 2)))
#else
#define NO_RETURN
#define LIKE_PRINTF
#endif

/* ------------------------------------------------------------------------------------ refusing, memory, numbers */

static jmp_buf refused;
static char reason[256];

NO_RETURN LIKE_PRINTF static void refuse(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vsnprintf(reason, sizeof reason, format, values);
    va_end(values);
    longjmp(refused, 1);
}

/* Memory that grows and is used again for the next stream and the next file. */
typedef struct {
    void *start;
    size_t bytes;
} Room;

static void *room(Room *held, uint64_t count, size_t size)
{
    if (count > SIZE_MAX / 2 / size)
        refuse("it needs more memory than there is");
    size_t bytes = (size_t)count * size;
    if (bytes > held->bytes || held->start == NULL) {
        free(held->start);
        held->bytes = bytes > 64 ? bytes : 64;
        held->start = malloc(held->bytes);
        if (held->start == NULL) {
            held->bytes = 0;
            refuse("it needs more memory than there is");
        }
    }
    return held->start;
}

/* value / 2^bits, rounded down; C leaves the shift of a negative number to the compiler. */
static inline int64_t shifted(int64_t value, int bits)
{
    return value >= 0 ? value >> bits : ~(~value >> bits);
}

static uint32_t crc_table[256];

static void make_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int k = 0; k < 8; k++)
            value = value & 1 ? value >> 1 ^ 0xEDB88320u : value >> 1;
        crc_table[i] = value;
    }
}

/* CRC-32 as in zip and PNG, of what came before and these bytes. */
static uint32_t crc_of(uint32_t before, const uint8_t *data, size_t count)
{
    uint32_t crc = ~before;
    for (size_t i = 0; i < count; i++)
        crc = crc_table[(crc ^ data[i]) & 255] ^ crc >> 8;
    return ~crc;
}

/* ------------------------------------------------------------------------------------------- 2: values in bytes */

typedef struct {
    const uint8_t *at, *end;
} Bytes;

static Bytes cut(Bytes *from, uint64_t count)
{
    uint64_t left = (uint64_t)(from->end - from->at);
    if (count > left)
        refuse("%llu bytes are missing at its end", (unsigned long long)(count - left));
    Bytes part = {from->at, from->at + count};
    from->at += count;
    return part;
}

static unsigned cut_byte(Bytes *from)
{
    return *cut(from, 1).at;
}

static uint32_t cut_u32(Bytes *from)
{
    const uint8_t *p = cut(from, 4).at;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t cut_whole(Bytes *from, uint64_t most)
{
    uint64_t value = 0;
    for (int i = 0;; i++) {
        if (i == 9)
            refuse("a number in it does not end");
        unsigned byte = cut_byte(from);
        value |= (uint64_t)(byte & 127) << (7 * i);
        if (byte < 128)
            break;
    }
    if (value > most)
        refuse("it says %llu where %llu is the most", (unsigned long long)value, (unsigned long long)most);
    return value;
}

static const uint64_t ANY_WHOLE = (uint64_t)1 << 62;
static const uint64_t ANY_SIGNED = (uint64_t)1 << 61;
static const uint64_t SYMBOL_SIGNED = (uint64_t)1 << 40;

static int64_t cut_signed(Bytes *from, uint64_t most)
{
    uint64_t value = cut_whole(from, 2 * most);
    int64_t half = (int64_t)(value >> 1);
    return value & 1 ? -half - 1 : half;
}

/* --------------------------------------------------------------------------------------------- 4: the range coder */

typedef struct {
    Bytes data;
    uint32_t low, range;
} Coder;

static inline uint32_t coder_byte(Coder *coder)
{
    return coder->data.at < coder->data.end ? *coder->data.at++ : 0;
}

static void start_coder(Coder *coder, Bytes data)
{
    coder->data = data;
    coder->low = 0;
    coder->range = 0xFFFFFFFFu;
    for (int i = 0; i < 4; i++)
        coder->low = coder->low << 8 | coder_byte(coder);
    if (coder->low == 0xFFFFFFFFu)
        refuse("coded bytes begin as no coder begins them");
}

/* A bit that is 1 with probability one / 65536. */
static inline int coded_bit(Coder *coder, uint32_t one)
{
    uint32_t bound = (uint32_t)((uint64_t)coder->range * one >> 16);
    int bit = coder->low < bound;
    if (bit) {
        coder->range = bound;
    } else {
        coder->low -= bound;
        coder->range -= bound;
    }
    while (coder->range < (uint32_t)1 << 24) {
        coder->range <<= 8;
        coder->low = coder->low << 8 | coder_byte(coder);
    }
    return bit;
}

/* -------------------------------------------------------------------------- 5: adaptive probabilities and mixing */

enum { REACH = 3071, SEEN_MOST = 1023 };

static const uint32_t EVEN = (uint32_t)1 << 31; /* a chance of 1/2, never seen */

static int32_t squash[2 * REACH + 1]; /* of x from -REACH */
static int16_t stretch[4096];
static int32_t rate[SEEN_MOST + 1];

static void make_mixing_tables(void)
{
    uint64_t decay = (uint64_t)1 << 30;
    for (int x = 0; x <= REACH; x++) {
        uint64_t value = ((uint64_t)1 << 46) / (((uint64_t)1 << 30) + decay);
        squash[REACH + x] = value < 65535 ? (int32_t)value : 65535;
        squash[REACH - x] = 65536 - squash[REACH + x];
        decay = (decay * 1069555701u + ((uint64_t)1 << 29)) >> 30;
    }
    int x = -REACH;
    for (int i = 0; i < 4096; i++) {
        while (x < REACH && squash[REACH + x] < 16 * i + 8)
            x++;
        stretch[i] = (int16_t)x;
    }
    for (int n = 0; n <= SEEN_MOST; n++)
        rate[n] = 131072 / (2 * n + 4);
}

/* A chance is 22 bits of probability above 10 bits of how often it was seen. */
static inline void learn(uint32_t *chance, int bit)
{
    int64_t value = *chance >> 10;
    uint32_t seen = *chance & 1023;
    value += shifted((((int64_t)bit << 22) - bit - value) * rate[seen], 16);
    *chance = (uint32_t)value << 10 | (seen < SEEN_MOST ? seen + 1 : seen);
}

static inline int bit_alone(Coder *coder, uint32_t *chance)
{
    uint32_t one = *chance >> 16;
    int bit = coded_bit(coder, one > 0 ? one : 1);
    learn(chance, bit);
    return bit;
}

static inline void even_out(uint32_t *chances, size_t count)
{
    for (size_t i = 0; i < count; i++)
        chances[i] = EVEN;
}

/* A bit by several chances under weights of one set. Without a coder: learn from `known`. */
static inline int bit_mixed(Coder *coder, uint32_t *const *chances, int inputs, int64_t *weights, int known)
{
    int64_t total = 0;
    int32_t logits[8];
    for (int i = 0; i < inputs; i++) {
        logits[i] = stretch[*chances[i] >> 20];
        total += weights[i] * logits[i];
    }
    total = shifted(total, 16);
    total = total > REACH ? REACH : total < -REACH ? -REACH : total;
    int32_t one = squash[total + REACH];
    int bit = coder != NULL ? coded_bit(coder, (uint32_t)one) : known;
    int64_t error = (int64_t)((bit << 16) - one) * 8;
    for (int i = 0; i < inputs; i++) {
        weights[i] += shifted(logits[i] * error + 131072, 18);
        learn(chances[i], bit);
    }
    return bit;
}

/* ------------------------------------------------------------------------------------------------- 6: the levels */

enum { BINS = 16, FLAGS = 33, LEVEL_INPUTS = 7, MEMORY = 100, KEPT_SEEN = 24 };

typedef struct {
    uint32_t column[BINS][64], slow[BINS][64], both[BINS][32][32], near[BINS][4][4][4], fast[BINS][64][3][3];
    uint32_t place[BINS][64][32], none[BINS];
    uint32_t sign[3][3][3], tree[FLAGS][8], low[FLAGS][FLAGS];
} LevelChances;

static LevelChances level_chances;
static int64_t level_weights[BINS][LEVEL_INPUTS];
static Room column_room, channel_room;

static inline int digits_of(int64_t value)
{
    int digits = 0;
#if defined(__GNUC__)
    if (value > 0)
        return 64 - __builtin_clzll((unsigned long long)value);
#endif
    for (; value > 0; value >>= 1)
        digits++;
    return digits;
}

/* Two classes for every number of binary digits. */
static inline int class_of(int64_t value, int digits)
{
    return digits > 1 ? 2 * digits + (int)(value >> (digits - 2) & 1) : digits;
}

static inline int sign_of(int64_t value)
{
    return (value > 0) - (value < 0);
}

static inline int small(int64_t level, int most)
{
    int64_t size = level < 0 ? -level : level;
    return size < most ? (int)size : most;
}

static int64_t reciprocals[MEMORY + 1];

static inline int64_t reciprocal(uint64_t count)
{
    return reciprocals[count < MEMORY ? count : MEMORY];
}

static void start_levels(void)
{
    for (int n = 0; n <= MEMORY; n++)
        reciprocals[n] = 131072 / (2 * n + 3);
    even_out((uint32_t *)&level_chances, sizeof level_chances / sizeof(uint32_t));
    for (int bin = 0; bin < BINS; bin++)
        for (int i = 0; i < LEVEL_INPUTS; i++)
            level_weights[bin][i] = 65536 / 5;
}

/* One level whose first bin's contexts are given; its magnitude's digits come in flags, then bits. */
static int64_t read_level(Coder *coder, uint32_t *contexts[LEVEL_INPUTS], uint32_t *sign)
{
    static const size_t stride[LEVEL_INPUTS] = {64, 64, 32 * 32, 64, 64 * 9, 64 * 32, 1};
    int digits = 0;
    while (bit_mixed(coder, contexts, LEVEL_INPUTS, level_weights[digits < BINS ? digits : BINS - 1], 0)) {
        if (digits < BINS - 1)
            for (int i = 0; i < LEVEL_INPUTS; i++)
                contexts[i] += stride[i];
        if (++digits == FLAGS)
            refuse("a level in it has more than 32 binary digits");
    }
    if (digits == 0)
        return 0;
    int negative = bit_alone(coder, sign);
    int64_t size = 1;
    for (int i = 0; i < digits - 1; i++)
        size = 2 * size + bit_alone(coder, i < 3 ? &level_chances.tree[digits][size] : &level_chances.low[digits][i]);
    return negative ? -size : size;
}

/* The levels [rows * columns] of one matrix. slow: the mean magnitude before and after, in units of 1/4096. */
static void read_matrix(Coder *coder, int64_t *levels, uint64_t rows, uint64_t columns, uint64_t kernel, int64_t *slow)
{
    LevelChances *chances = &level_chances;
    uint32_t *each = (uint32_t *)chances;
    for (size_t i = 0; i < sizeof level_chances / sizeof(uint32_t); i++)
        if ((each[i] & 1023) > KEPT_SEEN)
            each[i] = (each[i] & ~(uint32_t)1023) | KEPT_SEEN;
    int64_t *column_mean = room(&column_room, columns, sizeof(int64_t));
    int64_t *channel_mean = room(&channel_room, kernel > 0 ? columns / kernel : 0, sizeof(int64_t));
    int64_t fast = *slow;
    for (uint64_t r = 0; r < rows; r++) {
        int64_t *row = levels + r * columns;
        int64_t one = 0, two = 0, column_rate = reciprocal(r);
        uint64_t channel = 0, position = 0;
        for (uint64_t c = 0; c < columns; c++) {
            int64_t up = r > 0 ? (row - columns)[c] : 0, up_two = r > 1 ? (row - 2 * columns)[c] : 0;
            if (r == 0)
                column_mean[c] = channel_mean[channel] = *slow;
            int64_t mean = column_mean[c];
            int mean_digits = digits_of(mean), slow_digits = digits_of(*slow);
            uint32_t *contexts[LEVEL_INPUTS] = {
                &chances->column[0][class_of(mean, mean_digits)],
                &chances->slow[0][class_of(*slow, slow_digits)],
                &chances->both[0][mean_digits][slow_digits],
                &chances->near[0][small(one, 3)][small(two, 3)][small(up, 3)],
                &chances->fast[0][class_of(fast, digits_of(fast))][small(up, 2)][small(up_two, 2)],
                NULL,
                &chances->none[0],
            };
            if (kernel > 1) {
                contexts[5] = &chances->place[0][position < 63 ? position : 63][digits_of(channel_mean[channel])];
            } else {
                int before = c > 0 ? digits_of(column_mean[c - 1]) : 0;
                int after = r > 0 && c + 1 < columns ? digits_of(column_mean[c + 1]) : 0;
                contexts[5] = &chances->place[0][before][after];
            }
            uint32_t *sign = &chances->sign[1 + sign_of(one)][1 + sign_of(up)][1 + sign_of(two)];
            int64_t level = read_level(coder, contexts, sign);
            row[c] = level;
            int64_t size = level < 0 ? -level : level;
            size = (size < 4095 ? size : 4095) * 4096;
            column_mean[c] = mean + shifted((size - mean) * column_rate, 16);
            if (kernel > 1)
                channel_mean[channel] += shifted(size - channel_mean[channel], 4);
            fast += shifted(size - fast, 2);
            *slow += shifted((size - *slow) * reciprocal(c + 3), 16);
            two = one;
            one = level;
            if (++position == kernel) {
                position = 0;
                channel++;
            }
        }
    }
}

/* --------------------------------------------------------------------------------------------------- 7: the text */

enum { ORDERS = 6, TEXT_INPUTS = ORDERS + 2, TEXT_SETS = 3 * (ORDERS + 1), LONGEST = 32 };

static const uint32_t MIX = 0x2545F491u, GOLDEN = 0x9E3779B1u;

typedef struct {
    uint32_t first[256], order[ORDERS][65536], match[2 * (LONGEST + 1)];
    int64_t weights[TEXT_SETS][TEXT_INPUTS];
    uint32_t places[65536];
} TextModel;

static TextModel text_model, primed_model;

static const char *const PRIMER[] = {
    "input_ids int64 \n",
    "attention_mask bool \n",
    "position_ids\n",
    "bn1.running_mean float32 16\n",
    "norm1.weight float32 64\n",
    "int8 uint8 int32 float16 bfloat16\n",
    "{\"op\":\"call_function\",\"name\":\"conv2d\",\"target\":\"aten.conv2d.default\",\"layer\":\"conv1\",\"args\"",
    ":[{\"node\":\"x\"},{\"node\":\"conv1_weight\"},{\"node\":\"conv1_bias\"},[2,2],[1,1]]},{\"op\":\"call_functi",
    "on\",\"name\":\"relu\",\"target\":\"aten.relu.default\",\"layer\":\"relu\",\"args\":[{\"node\":\"conv2d\"}]}",
    ",{\"op\":\"call_function\",\"name\":\"conv2d_1\",\"target\":\"aten.conv2d.default\",\"layer\":\"layer1.0\",\"",
    "args\":[{\"node\":\"relu\"},{\"node\":\"layer1_0_weight\"},{\"node\":\"layer1_0_bias\"},[1,1],[1,1],[1,1],8]",
    "},{\"op\":\"call_function\",\"name\":\"hardtanh\",\"target\":\"aten.hardtanh.default\",\"layer\":\"layer1.2\"",
    ",\"args\":[{\"node\":\"conv2d_1\"},0.0,6.0]},{\"op\":\"call_function\",\"name\":\"add\",\"target\":\"aten.ad",
    "d.Tensor\",\"layer\":\"add\",\"args\":[{\"node\":\"relu\"},{\"node\":\"hardtanh\"}]},{\"op\":\"call_function",
    "\",\"name\":\"conv2d_2\",\"target\":\"aten.conv2d.default\",\"layer\":\"layer2.0\",\"args\":[{\"node\":\"add",
    "\"},{\"node\":\"layer2_0_weight\"},{\"node\":\"layer2_0_bias\"}]},{\"op\":\"call_function\",\"name\":\"silu\"",
    ",\"target\":\"aten.silu.default\",\"layer\":\"layer2.1\",\"args\":[{\"node\":\"conv2d_2\"}]},{\"op\":\"call_",
    "function\",\"name\":\"hardswish\",\"target\":\"aten.hardswish.default\",\"layer\":\"layer2.2\",\"args\":[{\"",
    "node\":\"silu\"}]},{\"op\":\"call_function\",\"name\":\"dropout\",\"target\":\"aten.dropout.default\",\"laye",
    "r\":\"layer2.3\",\"modes\":{\"train\":[false,true]},\"args\":[{\"node\":\"hardswish\"},0.1,false]},{\"op\":\"",
    "call_function\",\"name\":\"cat\",\"target\":\"aten.cat.default\",\"layer\":\"cat\",\"args\":[[{\"node\":\"dr",
    "opout\"},{\"node\":\"add\"}],1]},{\"op\":\"call_function\",\"name\":\"slice_2\",\"target\":\"aten.slice.Tens",
    "or\",\"layer\":\"slice\",\"args\":[{\"node\":\"cat\"},1,0,8]},{\"op\":\"call_function\",\"name\":\"sigmoid\"",
    ",\"target\":\"aten.sigmoid.default\",\"layer\":\"sigmoid\",\"args\":[{\"node\":\"slice_2\"}]},{\"op\":\"call",
    "_function\",\"name\":\"mul\",\"target\":\"aten.mul.Tensor\",\"layer\":\"mul\",\"args\":[{\"node\":\"sigmoid\"",
    "},{\"node\":\"slice_2\"}]},{\"op\":\"call_function\",\"name\":\"max_pool2d\",\"target\":\"aten.max_pool2d.de",
    "fault\",\"layer\":\"max_pool2d\",\"args\":[{\"node\":\"mul\"},[3,3],[2,2],[1,1]]},{\"op\":\"call_function\",",
    "\"name\":\"adaptive_avg_pool2d\",\"target\":\"aten.adaptive_avg_pool2d.default\",\"layer\":\"avgpool\",\"arg",
    "s\":[{\"node\":\"max_pool2d\"},[1,1]]},{\"op\":\"call_function\",\"name\":\"flatten\",\"target\":\"aten.flat",
    "ten.using_ints\",\"layer\":\"flatten\",\"args\":[{\"node\":\"adaptive_avg_pool2d\"},1]},{\"op\":\"call_funct",
    "ion\",\"name\":\"choose_qparams_tensor\",\"target\":\"quantized_decomposed.choose_qparams.tensor\",\"layer\"",
    ":\"flatten.range\",\"args\":[{\"node\":\"flatten\"},0,255,1.1754943508222875e-38,{\"dtype\":\"uint8\"}]},{\"",
    "op\":\"call_function\",\"name\":\"getitem\",\"target\":\"python.getitem\",\"layer\":\"flatten.scale\",\"args",
    "\":[{\"node\":\"choose_qparams_tensor\"},0]},\n",
    "{\"op\":\"placeholder\",\"name\":\"input_ids\"},{\"op\":\"call_function\",\"name\":\"sym_size_int_2\",\"targ",
    "et\":\"aten.sym_size.int\",\"args\":[{\"node\":\"input_ids\"},0]},{\"op\":\"call_function\",\"name\":\"embed",
    "ding\",\"target\":\"aten.embedding.default\",\"layer\":\"embeddings\",\"args\":[{\"node\":\"embeddings_weigh",
    "t\"},{\"node\":\"input_ids\"}]},{\"op\":\"call_function\",\"name\":\"transpose\",\"target\":\"aten.transpose",
    ".int\",\"layer\":\"encoder.self_attn.transpose\",\"args\":[{\"node\":\"embedding\"},1,0]},{\"op\":\"call_fun",
    "ction\",\"name\":\"linear\",\"target\":\"aten.linear.default\",\"layer\":\"encoder.self_attn.linear\",\"args",
    "\":[{\"node\":\"transpose\"},{\"node\":\"encoder_self_attn_in_proj_weight\"},{\"node\":\"encoder_self_attn_i",
    "n_proj_bias\"}]},{\"op\":\"call_function\",\"name\":\"unflatten\",\"target\":\"aten.unflatten.int\",\"layer\"",
    ":\"encoder.self_attn.unflatten\",\"args\":[{\"node\":\"linear\"},-1,[3,8]]},{\"op\":\"call_function\",\"name",
    "\":\"unsqueeze\",\"target\":\"aten.unsqueeze.default\",\"layer\":\"encoder.self_attn.unsqueeze\",\"args\":[{",
    "\"node\":\"unflatten\"},0]},{\"op\":\"call_function\",\"name\":\"transpose_1\",\"target\":\"aten.transpose.i",
    "nt\",\"layer\":\"encoder.self_attn.transpose_1\",\"args\":[{\"node\":\"unsqueeze\"},0,-2]},{\"op\":\"call_fu",
    "nction\",\"name\":\"squeeze\",\"target\":\"aten.squeeze.dim\",\"layer\":\"encoder.self_attn.squeeze\",\"args",
    "\":[{\"node\":\"transpose_1\"},-2]},{\"op\":\"call_function\",\"name\":\"contiguous\",\"target\":\"aten.cont",
    "iguous.default\",\"layer\":\"encoder.self_attn.contiguous\",\"args\":[{\"node\":\"squeeze\"}]},{\"op\":\"cal",
    "l_function\",\"name\":\"select\",\"target\":\"aten.select.int\",\"layer\":\"encoder.self_attn.select\",\"arg",
    "s\":[{\"node\":\"contiguous\"},0,0]},{\"op\":\"call_function\",\"name\":\"select_1\",\"target\":\"aten.selec",
    "t.int\",\"layer\":\"encoder.self_attn.select_1\",\"args\":[{\"node\":\"contiguous\"},0,1]},{\"op\":\"call_fu",
    "nction\",\"name\":\"select_2\",\"target\":\"aten.select.int\",\"layer\":\"encoder.self_attn.select_2\",\"arg",
    "s\":[{\"node\":\"contiguous\"},0,2]},{\"op\":\"call_function\",\"name\":\"mul_3\",\"target\":\"python.mul\",",
    "\"args\":[{\"node\":\"sym_size_int_2\"},2]},{\"op\":\"call_function\",\"name\":\"view\",\"target\":\"aten.vi",
    "ew.default\",\"layer\":\"encoder.self_attn.view\",\"args\":[{\"node\":\"select\"},[6,{\"node\":\"mul_3\"},4]",
    "]},{\"op\":\"call_function\",\"name\":\"transpose_2\",\"target\":\"aten.transpose.int\",\"layer\":\"encoder.",
    "self_attn.transpose_2\",\"args\":[{\"node\":\"view\"},0,1]},{\"op\":\"call_function\",\"name\":\"view_1\",\"",
    "target\":\"aten.view.default\",\"layer\":\"encoder.self_attn.view_1\",\"args\":[{\"node\":\"select_1\"},[6,{",
    "\"node\":\"mul_3\"},4]]},{\"op\":\"call_function\",\"name\":\"transpose_3\",\"target\":\"aten.transpose.int\"",
    ",\"layer\":\"encoder.self_attn.transpose_3\",\"args\":[{\"node\":\"view_1\"},0,1]},{\"op\":\"call_function\"",
    ",\"name\":\"view_2\",\"target\":\"aten.view.default\",\"layer\":\"encoder.self_attn.view_2\",\"args\":[{\"no",
    "de\":\"select_2\"},[6,{\"node\":\"mul_3\"},4]]},{\"op\":\"call_function\",\"name\":\"transpose_4\",\"target\"",
    ":\"aten.transpose.int\",\"layer\":\"encoder.self_attn.transpose_4\",\"args\":[{\"node\":\"view_2\"},0,1]},{\"",
    "op\":\"call_function\",\"name\":\"view_3\",\"target\":\"aten.view.default\",\"layer\":\"encoder.self_attn.vi",
    "ew_3\",\"args\":[{\"node\":\"transpose_2\"},[{\"node\":\"sym_size_int_2\"},2,6,4]]},{\"op\":\"call_function\"",
    ",\"name\":\"view_4\",\"target\":\"aten.view.default\",\"layer\":\"encoder.self_attn.view_4\",\"args\":[{\"no",
    "de\":\"transpose_3\"},[{\"node\":\"sym_size_int_2\"},2,6,4]]},{\"op\":\"call_function\",\"name\":\"view_5\",",
    "\"target\":\"aten.view.default\",\"layer\":\"encoder.self_attn.view_5\",\"args\":[{\"node\":\"transpose_4\"}",
    ",[{\"node\":\"sym_size_int_2\"},2,6,4]]},{\"op\":\"call_function\",\"name\":\"scaled_dot_product_attention\"",
    ",\"target\":\"aten.scaled_dot_product_attention.default\",\"layer\":\"encoder.self_attn.scaled_dot_product_a",
    "ttention\",\"modes\":{\"dropout_p\":[0.0,0.1]},\"args\":[{\"node\":\"view_3\"},{\"node\":\"view_4\"},{\"node",
    "\":\"view_5\"},null,0.0]},{\"op\":\"call_function\",\"name\":\"permute\",\"target\":\"aten.permute.default\"",
    ",\"layer\":\"encoder.self_attn.permute\",\"args\":[{\"node\":\"scaled_dot_product_attention\"},[2,0,1,3]]},{",
    "\"op\":\"call_function\",\"name\":\"mul_6\",\"target\":\"python.mul\",\"args\":[{\"node\":\"sym_size_int_2\"",
    "},6]},{\"op\":\"call_function\",\"name\":\"reshape\",\"target\":\"aten.reshape.default\",\"layer\":\"encoder",
    ".self_attn.reshape\",\"args\":[{\"node\":\"permute\"},[{\"node\":\"mul_6\"},8]]},{\"op\":\"call_function\",\"",
    "name\":\"linear_1\",\"target\":\"aten.linear.default\",\"layer\":\"encoder.self_attn.linear_1\",\"args\":[{\"",
    "node\":\"reshape\"},{\"node\":\"encoder_self_attn_out_proj_weight\"},{\"node\":\"encoder_self_attn_out_proj_",
    "bias\"}]},{\"op\":\"call_function\",\"name\":\"view_6\",\"target\":\"aten.view.default\",\"layer\":\"encoder",
    ".self_attn.view_6\",\"args\":[{\"node\":\"linear_1\"},[6,{\"node\":\"sym_size_int_2\"},8]]},{\"op\":\"call_f",
    "unction\",\"name\":\"transpose_5\",\"target\":\"aten.transpose.int\",\"layer\":\"encoder.self_attn.transpose",
    "_5\",\"args\":[{\"node\":\"view_6\"},1,0]},{\"op\":\"call_function\",\"name\":\"dropout\",\"target\":\"aten.",
    "dropout.default\",\"layer\":\"encoder.dropout1\",\"modes\":{\"train\":[false,true]},\"args\":[{\"node\":\"tr",
    "anspose_5\"},0.1,false]},{\"op\":\"call_function\",\"name\":\"add\",\"target\":\"aten.add.Tensor\",\"layer\"",
    ":\"encoder.add\",\"args\":[{\"node\":\"embedding\"},{\"node\":\"dropout\"}]},{\"op\":\"call_function\",\"nam",
    "e\":\"layer_norm\",\"target\":\"aten.layer_norm.default\",\"layer\":\"encoder.norm1\",\"args\":[{\"node\":\"",
    "add\"},[8],{\"node\":\"encoder_norm1_weight\"},{\"node\":\"encoder_norm1_bias\"},1e-05,false]},{\"op\":\"cal",
    "l_function\",\"name\":\"linear_2\",\"target\":\"aten.linear.default\",\"layer\":\"encoder.linear1\",\"args\"",
    ":[{\"node\":\"layer_norm\"},{\"node\":\"encoder_linear1_weight\"},{\"node\":\"encoder_linear1_bias\"}]},{\"o",
    "p\":\"call_function\",\"name\":\"gelu\",\"target\":\"aten.gelu.default\",\"layer\":\"encoder.gelu\",\"args\"",
    ":[{\"node\":\"linear_2\"}]},{\"op\":\"call_function\",\"name\":\"dropout_1\",\"target\":\"aten.dropout.defau",
    "lt\",\"layer\":\"encoder.dropout\",\"modes\":{\"train\":[false,true]},\"args\":[{\"node\":\"gelu\"},0.1,fals",
    "e]},{\"op\":\"call_function\",\"name\":\"linear_3\",\"target\":\"aten.linear.default\",\"layer\":\"encoder.l",
    "inear2\",\"args\":[{\"node\":\"dropout_1\"},{\"node\":\"encoder_linear2_weight\"},{\"node\":\"encoder_linear",
    "2_bias\"}]},{\"op\":\"call_function\",\"name\":\"dropout_2\",\"target\":\"aten.dropout.default\",\"layer\":\"",
    "encoder.dropout2\",\"modes\":{\"train\":[false,true]},\"args\":[{\"node\":\"linear_3\"},0.1,false]},{\"op\":",
    "\"call_function\",\"name\":\"add_1\",\"target\":\"aten.add.Tensor\",\"layer\":\"encoder.add_1\",\"args\":[{\"",
    "node\":\"layer_norm\"},{\"node\":\"dropout_2\"}]},{\"op\":\"call_function\",\"name\":\"layer_norm_1\",\"targ",
    "et\":\"aten.layer_norm.default\",\"layer\":\"encoder.norm2\",\"args\":[{\"node\":\"add_1\"},[8],{\"node\":\"",
    "encoder_norm2_weight\"},{\"node\":\"encoder_norm2_bias\"},1e-05,false]},{\"op\":\"call_function\",\"name\":\"",
    "mean\",\"target\":\"aten.mean.dim\",\"layer\":\"mean\",\"args\":[{\"node\":\"layer_norm_1\"},[1]]},{\"op\":\"",
    "call_function\",\"name\":\"linear_4\",\"target\":\"aten.linear.default\",\"layer\":\"classifier\",\"args\":[",
    "{\"node\":\"mean\"},{\"node\":\"classifier_weight\"},{\"node\":\"classifier_bias\"}]},{\"op\":\"output\",\"n",
    "ame\":\"output\",\"args\":[[{\"node\":\"linear_4\"}]]}]}\n",
    "conv1.weight float32 8,3,3,3\n",
    "conv1.bias float32 8\n",
    "layer1.0.weight float32 8,1,3,3\n",
    "layer1.0.bias float32 8\n",
    "layer2.0.weight float32 8,8,1,1\n",
    "layer2.0.bias float32 8\n",
    "fc.weight float32 10,8\n",
    "fc.bias float32 10\n",
    "\n",
    "{\"version\":1,\"name\":\"model\",\"training\":false,\"inputs\":[[\"x\",\"float32\",[\"batch\",3,32,32]]],\"",
    "outputs\":[[\"output\",\"float32\",[\"batch\",10]]],\"structure\":0,\"dims\":{\"batch\":2},\"limits\":{},\"n",
    "otes\":[],\"lineage\":[[\"load\",1,{\"from\":\"model\"}],[\"fold\",1,{\"layers\":2}]],\"parameters\":{\"conv",
    "1.weight\":true,\"conv1.bias\":true,\"layer1.0.weight\":true,\"layer1.0.bias\":true,\"layer2.0.weight\":true",
    ",\"layer2.0.bias\":true,\"fc.weight\":true,\"fc.bias\":true},\"nodes\":[{\"op\":\"get_attr\",\"name\":\"conv",
    "1_weight\",\"target\":\"conv1.weight\"},{\"op\":\"get_attr\",\"name\":\"layer1_0_weight\",\"target\":\"layer",
    "1.0.weight\"},{\"op\":\"get_attr\",\"name\":\"layer1_0_bias\",\"target\":\"layer1.0.bias\"},{\"op\":\"get_at",
    "tr\",\"name\":\"layer2_0_weight\",\"target\":\"layer2.0.weight\"},{\"op\":\"get_attr\",\"name\":\"layer2_0_b",
    "ias\",\"target\":\"layer2.0.bias\"},{\"op\":\"get_attr\",\"name\":\"fc_weight\",\"target\":\"fc.weight\"},{\"",
    "op\":\"get_attr\",\"name\":\"fc_bias\",\"target\":\"fc.bias\"},{\"op\":\"placeholder\",\"name\":\"x\"},{\"op",
    "\":\"get_attr\",\"name\":\"conv1_bias\",\"target\":\"conv1.bias\"},{\"op\":\"call_function\",\"name\":\"conv",
    "2d\",\"target\":\"aten.conv2d.default\",\"layer\":\"conv1\",\"args\":[{\"node\":\"x\"},{\"node\":\"conv1_wei",
    "ght\"},{\"node\":\"conv1_bias\"},[2,2],[1,1]]},{\"op\":\"call_function\",\"name\":\"relu\",\"target\":\"aten",
    ".relu.default\",\"layer\":\"relu\",\"args\":[{\"node\":\"conv2d\"}]},{\"op\":\"call_function\",\"name\":\"co",
    "nv2d_1\",\"target\":\"aten.conv2d.default\",\"layer\":\"layer1.0\",\"args\":[{\"node\":\"relu\"},{\"node\":\"",
    "layer1_0_weight\"},{\"node\":\"layer1_0_bias\"},[1,1],[1,1],[1,1],8]},{\"op\":\"call_function\",\"name\":\"h",
    "ardtanh\",\"target\":\"aten.hardtanh.default\",\"layer\":\"layer1.2\",\"args\":[{\"node\":\"conv2d_1\"},0.0,",
    "6.0]},{\"op\":\"call_function\",\"name\":\"add\",\"target\":\"aten.add.Tensor\",\"layer\":\"add\",\"args\":[",
    "{\"node\":\"relu\"},{\"node\":\"hardtanh\"}]},{\"op\":\"call_function\",\"name\":\"conv2d_2\",\"target\":\"a",
    "ten.conv2d.default\",\"layer\":\"layer2.0\",\"args\":[{\"node\":\"add\"},{\"node\":\"layer2_0_weight\"},{\"n",
    "ode\":\"layer2_0_bias\"}]},{\"op\":\"call_function\",\"name\":\"silu\",\"target\":\"aten.silu.default\",\"la",
    "yer\":\"layer2.1\",\"args\":[{\"node\":\"conv2d_2\"}]},{\"op\":\"call_function\",\"name\":\"hardswish\",\"ta",
    "rget\":\"aten.hardswish.default\",\"layer\":\"layer2.2\",\"args\":[{\"node\":\"silu\"}]},{\"op\":\"call_func",
    "tion\",\"name\":\"dropout\",\"target\":\"aten.dropout.default\",\"layer\":\"layer2.3\",\"modes\":{\"train\":",
    "[false,true]},\"args\":[{\"node\":\"hardswish\"},0.1,false]},{\"op\":\"call_function\",\"name\":\"cat\",\"ta",
    "rget\":\"aten.cat.default\",\"layer\":\"cat\",\"args\":[[{\"node\":\"dropout\"},{\"node\":\"add\"}],1]},{\"o",
    "p\":\"call_function\",\"name\":\"slice_2\",\"target\":\"aten.slice.Tensor\",\"layer\":\"slice\",\"args\":[{\"",
    "node\":\"cat\"},1,0,8]},{\"op\":\"call_function\",\"name\":\"sigmoid\",\"target\":\"aten.sigmoid.default\",\"",
    "layer\":\"sigmoid\",\"args\":[{\"node\":\"slice_2\"}]},{\"op\":\"call_function\",\"name\":\"mul\",\"target\"",
    ":\"aten.mul.Tensor\",\"layer\":\"mul\",\"args\":[{\"node\":\"sigmoid\"},{\"node\":\"slice_2\"}]},{\"op\":\"c",
    "all_function\",\"name\":\"max_pool2d\",\"target\":\"aten.max_pool2d.default\",\"layer\":\"max_pool2d\",\"arg",
    "s\":[{\"node\":\"mul\"},[3,3],[2,2],[1,1]]},{\"op\":\"call_function\",\"name\":\"adaptive_avg_pool2d\",\"tar",
    "get\":\"aten.adaptive_avg_pool2d.default\",\"layer\":\"avgpool\",\"args\":[{\"node\":\"max_pool2d\"},[1,1]]}",
    ",{\"op\":\"call_function\",\"name\":\"flatten\",\"target\":\"aten.flatten.using_ints\",\"layer\":\"flatten\"",
    ",\"args\":[{\"node\":\"adaptive_avg_pool2d\"},1]},{\"op\":\"call_function\",\"name\":\"linear\",\"target\":\"",
    "aten.linear.default\",\"layer\":\"fc\",\"args\":[{\"node\":\"flatten\"},{\"node\":\"fc_weight\"},{\"node\":\"",
    "fc_bias\"}]},{\"op\":\"call_function\",\"name\":\"softmax\",\"target\":\"aten.softmax.int\",\"layer\":\"soft",
    "max\",\"args\":[{\"node\":\"linear\"},-1]},{\"op\":\"output\",\"name\":\"output\",\"args\":[[{\"node\":\"sof",
    "tmax\"}]]}]}",
};

static size_t primer_length(void)
{
    size_t length = 0;
    for (size_t i = 0; i < sizeof PRIMER / sizeof PRIMER[0]; i++)
        length += strlen(PRIMER[i]);
    return length;
}

static int is_letter(unsigned byte)
{
    unsigned lower = byte | 32;
    return lower >= 'a' && lower <= 'z';
}

/* Code text[begin] to text[end - 1]; without a coder they are known and only learnt from. */
static void run_text(TextModel *model, Coder *coder, uint8_t *text, size_t begin, size_t end)
{
    size_t source = 0, same = 0;
    for (size_t at = begin; at < end; at++) {
        uint32_t hashes[ORDERS], history = 0, spot = 0;
        for (uint32_t i = 0; i < 6; i++) {
            history = (history ^ (at > i ? text[at - 1 - i] : 0)) * MIX + i + 1;
            if (i < 4)
                hashes[i] = history;
            else if (i == 4)
                spot = history * MIX >> 16;
        }
        hashes[4] = history;
        if (same > 0 && text[source] == text[at - 1]) {
            same = same < LONGEST ? same + 1 : LONGEST;
            source++;
        } else {
            same = 0;
            source = model->places[spot];
            while (same < LONGEST && same < source && text[source - 1 - same] == text[at - 1 - same])
                same++;
        }
        model->places[spot] = (uint32_t)at;
        uint32_t word = 0;
        size_t letters = 0;
        while (letters < 24 && letters < at && is_letter(text[at - 1 - letters])) {
            word = (word ^ text[at - 1 - letters]) * MIX + 7;
            letters++;
        }
        hashes[5] = (word ^ (letters < at ? text[at - 1 - letters] : 0)) * MIX + 11;
        uint32_t guess = same > 0 ? 256 + (uint32_t)text[source] : 0, node = 1;
        for (int i = 0; i < 8; i++) {
            uint32_t *chances[TEXT_INPUTS] = {&model->first[node]};
            int known = 0;
            chances[TEXT_INPUTS - 1] = &model->match[0];
            if (guess >> (8 - i) == node) {
                chances[TEXT_INPUTS - 1] = &model->match[2 * same + (guess >> (7 - i) & 1)];
                known = same < 16 ? 7 : 14;
            }
            for (int k = 0; k < ORDERS; k++) {
                chances[k + 1] = &model->order[k][(hashes[k] ^ node * GOLDEN) * MIX >> 16];
                if (*chances[k + 1] & 1023)
                    known++;
            }
            int bit = bit_mixed(coder, chances, TEXT_INPUTS, model->weights[known], text[at] >> (7 - i) & 1);
            node = 2 * node + (uint32_t)bit;
        }
        text[at] = (uint8_t)node;
    }
}

/* The text [length] that the coded bytes spell, in a room with the primer before it. */
static uint8_t *read_text(Room *held, Bytes coded, size_t length)
{
    static int primed;
    size_t before = primer_length(), at = 0;
    uint8_t *text = room(held, before + length, 1);
    for (size_t i = 0; i < sizeof PRIMER / sizeof PRIMER[0]; i++) {
        memcpy(text + at, PRIMER[i], strlen(PRIMER[i]));
        at += strlen(PRIMER[i]);
    }
    if (!primed) {
        even_out(primed_model.first, 256);
        even_out(primed_model.order[0], (size_t)ORDERS * 65536);
        even_out(primed_model.match, 2 * (LONGEST + 1));
        for (int set = 0; set < TEXT_SETS; set++)
            for (int i = 0; i < TEXT_INPUTS; i++)
                primed_model.weights[set][i] = 65536 / 4;
        run_text(&primed_model, NULL, text, 0, before);
        primed = 1;
    }
    text_model = primed_model;
    Coder coder;
    start_coder(&coder, coded);
    memset(text + before, 0, length);
    run_text(&text_model, &coder, text, before, before + length);
    return text + before;
}

/* -------------------------------------------------------------------------------------------------- 8: the words */

typedef struct {
    uint32_t node[65536], hashed[65536], depth[16];
    int64_t weights[16][3];
} WordModel;

static WordModel word_model;

/* Words of 8 or 16 bits, put into `elements` of `step` bytes each, the first at its start. leading: see section 8. */
static void read_plane(Bytes coded, uint8_t *elements, uint64_t count, int step, int bits, int leading)
{
    WordModel *model = &word_model;
    even_out(model->node, 65536);
    even_out(model->hashed, 65536);
    even_out(model->depth, 16);
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 3; k++)
            model->weights[i][k] = 65536 / 3;
    Coder coder;
    start_coder(&coder, coded);
    uint32_t before = 0;
    for (uint64_t at = 0; at < count; at++) {
        uint32_t node = 1;
        for (int i = 0; i < bits; i++) {
            uint32_t mixed = node * MIX ^ (before + 1) * GOLDEN;
            uint32_t *chances[3] = {&model->node[node & 65535], &model->hashed[mixed >> 7 & 65535], &model->depth[i]};
            node = 2 * node + (uint32_t)bit_mixed(&coder, chances, 3, model->weights[i], 0);
        }
        before = (node & (((uint32_t)1 << (bits - 1)) - 1)) >> (bits - leading);
        elements[0] = (uint8_t)node;
        if (bits > 8)
            elements[1] = (uint8_t)(node >> 8);
        elements += step;
    }
}

/* The first 16 bits of each element are coded; those below, 16 at a time, may be. */
static void read_small_words(Bytes *from, uint8_t *elements, uint64_t count, int size, int exponent)
{
    int top = size < 2 ? size : 2;
    Bytes coded = cut(from, cut_whole(from, ANY_WHOLE));
    read_plane(coded, elements + size - top, count, size, 8 * top, 1 + exponent);
    for (int low = 0; low < size - top; low += 2) {
        uint64_t length = cut_whole(from, ANY_WHOLE);
        if (length > 0) {
            read_plane(cut(from, length), elements + low, count, size, 16, 1);
        } else {
            const uint8_t *plain = cut(from, 2 * count).at;
            for (uint64_t i = 0; i < count; i++)
                memcpy(elements + i * (uint64_t)size + low, plain + 2 * i, 2);
        }
    }
}

/* -------------------------------------------------------------------------------------------------- 9: fast coding */

enum { TOTAL = 4096, LANES = 4, GAP_LONGEST = 255 };

typedef struct {
    uint16_t symbol, frequency, offset;
} Turn;

typedef struct {
    const uint8_t *words;
    uint64_t at, count;
} Refill;

static inline uint16_t turned(uint32_t *state, const Turn *turns, Refill *refill)
{
    const Turn *turn = &turns[*state & (TOTAL - 1)];
    uint32_t next = turn->frequency * (*state >> 12) + turn->offset;
    if (next < 65536) {
        next <<= 16;
        if (refill->at < refill->count)
            next |= (uint32_t)refill->words[2 * refill->at] | (uint32_t)refill->words[2 * refill->at + 1] << 8;
        refill->at++;
    }
    *state = next;
    return turn->symbol;
}

static void read_symbols(Bytes data, const uint64_t *frequencies, size_t symbols, uint16_t *made, uint64_t count)
{
    static Turn turns[TOTAL];
    if (data.end - data.at < 4 * LANES || (data.end - data.at) % 2 != 0)
        refuse("a stream of four states is too short");
    size_t remainder = 0;
    for (size_t symbol = 0; symbol < symbols; symbol++)
        for (uint64_t i = 0; i < frequencies[symbol]; i++)
            turns[remainder++] = (Turn){(uint16_t)symbol, (uint16_t)frequencies[symbol], (uint16_t)i};
    uint32_t states[LANES];
    for (int lane = 0; lane < LANES; lane++)
        states[lane] = cut_u32(&data);
    Refill refill = {data.at, 0, (uint64_t)(data.end - data.at) / 2};
    uint64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            made[i + (uint64_t)lane] = turned(&states[lane], turns, &refill);
    for (int lane = 0; i < count; lane++)
        made[i++] = turned(&states[lane], turns, &refill);
    if (refill.at != refill.count)
        refuse("a stream of four states does not end where it should");
}

static Room symbol_room;

/* An alphabet, frequencies, symbols, and what was too rare for the alphabet. */
static void read_values(Bytes *from, int64_t *values, uint64_t count)
{
    static int64_t alphabet[TOTAL + 1];
    static uint64_t frequencies[TOTAL + 1];
    size_t known = (size_t)cut_whole(from, TOTAL);
    uint64_t rare = cut_whole(from, count);
    int64_t value = 0;
    for (size_t i = 0; i < known; i++)
        alphabet[i] = value += cut_signed(from, SYMBOL_SIGNED);
    size_t symbols = known + (rare > 0);
    uint64_t total = 0;
    for (size_t i = 0; i < symbols; i++) {
        frequencies[i] = cut_whole(from, TOTAL);
        total += frequencies[i];
        if (frequencies[i] == 0)
            refuse("its frequencies do not add up");
    }
    if (symbols > 0 && total != TOTAL)
        refuse("its frequencies do not add up");
    Bytes coded = cut(from, cut_whole(from, ANY_WHOLE));
    if (symbols == 0 && count > 0)
        refuse("an empty alphabet");
    uint16_t *made = room(&symbol_room, count, sizeof(uint16_t));
    if (symbols > 1)
        read_symbols(coded, frequencies, symbols, made, count);
    else if (count > 0)
        memset(made, 0, (size_t)count * sizeof(uint16_t));
    for (uint64_t i = 0; i < count; i++) {
        if (made[i] < known) {
            values[i] = alphabet[made[i]];
        } else {
            if (rare-- == 0)
                refuse("its escapes do not fit");
            values[i] = cut_signed(from, SYMBOL_SIGNED);
        }
    }
    if (rare != 0)
        refuse("its escapes do not fit");
}

/* How many zeros stand before each level that is not zero, and those levels. */
static void read_gaps(Bytes *from, int64_t *levels, uint64_t count)
{
    static Room step_room, value_room;
    uint64_t many = cut_whole(from, count), turns = cut_whole(from, count);
    int64_t *steps = room(&step_room, turns, sizeof(int64_t)), *values = room(&value_room, many, sizeof(int64_t));
    read_values(from, steps, turns);
    read_values(from, values, many);
    for (uint64_t i = 0; i < count; i++)
        levels[i] = 0;
    uint64_t place = 0, used = 0;
    for (uint64_t i = 0; i < turns; i++) {
        if (steps[i] < 0 || steps[i] > GAP_LONGEST)
            refuse("its gaps do not fit");
        place += (uint64_t)steps[i];
        if (steps[i] < GAP_LONGEST) {
            if (used == many || place >= count)
                refuse("its gaps do not fit");
            levels[place++] = values[used++];
        }
    }
    if (used != many)
        refuse("its gaps do not fit");
}

static void read_fast(Bytes *from, int64_t *levels, uint64_t count)
{
    switch (cut_byte(from)) {
    case 0:
        read_values(from, levels, count);
        break;
    case 1:
        read_gaps(from, levels, count);
        break;
    default:
        refuse("unknown way to code levels");
    }
}

static Room level_room; /* int64 [elements] of one tensor */

/* Each element turned left by a bit: its first byte a symbol, the others as they are. */
static void read_fast_words(Bytes *from, uint8_t *elements, uint64_t count, int size)
{
    int64_t *tops = room(&level_room, count, sizeof(int64_t));
    read_values(from, tops, count);
    const uint8_t *rest = cut(from, count * (uint64_t)(size - 1)).at;
    for (uint64_t i = 0; i < count; i++) {
        if (tops[i] < 0 || tops[i] > 255)
            refuse("an exponent in it takes more than a byte");
        uint64_t value = (uint64_t)tops[i] << (8 * (size - 1));
        for (int k = 0; k < size - 1; k++)
            value |= (uint64_t)*rest++ << (8 * k);
        value = value >> 1 | (value & 1) << (8 * size - 1);
        for (int k = 0; k < size; k++)
            *elements++ = (uint8_t)(value >> (8 * k));
    }
}

/* ---------------------------------------------------------------------------------------- 3: tensors and streams */

enum { SMALL = 0, FAST = 1, CODERS = 2, MOST_DIMENSIONS = 16, MOST_ENTRIES = 65536, MOST_TABLE = 4096 };
enum { RAMP, LEVELS, STEPS, TABLE, SPARSE, WORDS, RAW, WAVES, KINDS };
enum { LONGEST_WAVE = 64, LARGEST_WAVE = 1 << 17 };

static const char *const KIND_NAMES[KINDS] = {"ramp", "levels", "steps", "table", "sparse", "words", "raw", "waves"};
static const char *const CODER_NAMES[CODERS] = {"small", "fast"};

typedef struct {
    const char *name, *stored; /* stored: its name in a safetensors file */
    int size, exponent;        /* bytes; bits of a float's exponent, 0 of an integer */
    int64_t least, most;       /* of an integer */
} Type;

static const Type TYPES[] = {
    {"float32", "F32", 4, 8, 0, 0},
    {"float16", "F16", 2, 5, 0, 0},
    {"bfloat16", "BF16", 2, 8, 0, 0},
    {"float64", "F64", 8, 11, 0, 0},
    {"float8_e4m3fn", "F8_E4M3", 1, 4, 0, 0},
    {"float8_e5m2", "F8_E5M2", 1, 5, 0, 0},
    {"int8", "I8", 1, 0, INT8_MIN, INT8_MAX},
    {"uint8", "U8", 1, 0, 0, UINT8_MAX},
    {"int16", "I16", 2, 0, INT16_MIN, INT16_MAX},
    {"int32", "I32", 4, 0, INT32_MIN, INT32_MAX},
    {"int64", "I64", 8, 0, INT64_MIN, INT64_MAX},
    {"bool", "BOOL", 1, 0, 0, 1},
};

typedef struct {
    Bytes name;
    const Type *type;
    int dimensions;
    uint64_t sizes[MOST_DIMENSIONS], count;
    uint64_t offset; /* of its elements in the safetensors file's data */
} Entry;

typedef struct {
    int kind;
    int64_t first, step; /* of a ramp; first: a level's offset, or the table's entry nearest 0 */
    Bytes table;         /* its entries, or the four bytes of a step */
    uint64_t height, width; /* of a picture of waves */
} Head;

static void put_element(uint8_t *place, uint64_t value, int size)
{
    for (int i = 0; i < size; i++)
        place[i] = (uint8_t)(value >> (8 * i));
}

static int has_levels(int kind)
{
    return kind == LEVELS || kind == STEPS || kind == TABLE || kind == SPARSE || kind == WAVES;
}

static void check_ramp(const Entry *entry, const Head *head)
{
    uint64_t turns = entry->count > 0 ? entry->count - 1 : 0;
    uint64_t step = head->step < 0 ? (uint64_t)0 - (uint64_t)head->step : (uint64_t)head->step;
    int fits = entry->type->exponent == 0 && head->first >= entry->type->least && head->first <= entry->type->most;
    if (fits && step > 0) {
        uint64_t left = head->step > 0 ? (uint64_t)entry->type->most - (uint64_t)head->first
                                       : (uint64_t)head->first - (uint64_t)entry->type->least;
        fits = turns <= left / step;
    }
    if (!fits)
        refuse("a ramp leaves %s", entry->type->name);
}

static void read_picture(Bytes *from, const Entry *entry, Head *head)
{
    head->height = cut_whole(from, LONGEST_WAVE);
    head->width = cut_whole(from, LONGEST_WAVE);
    uint64_t size = head->height * head->width, columns = entry->count > 0 ? entry->count / entry->sizes[0] : 0;
    if (entry->dimensions < 2 || size < 2 || columns % size != 0)
        refuse("waves of %u x %u over other columns", (unsigned)head->height, (unsigned)head->width);
}

static Head read_head(Bytes *from, const Entry *entry)
{
    Head head = {0, 0, 0, {NULL, NULL}, 0, 0};
    unsigned kind = cut_byte(from);
    int is_float = entry->type->exponent > 0;
    if (kind >= KINDS)
        refuse("a tensor has unknown form %u", kind);
    head.kind = (int)kind;
    if (kind != RAW && is_float == (kind == RAMP || kind == LEVELS))
        refuse("%s of %s", KIND_NAMES[kind], entry->type->name);
    switch (head.kind) {
    case RAMP:
        head.first = cut_signed(from, ANY_SIGNED);
        head.step = cut_signed(from, (uint64_t)1 << 32);
        check_ramp(entry, &head);
        break;
    case LEVELS:
        head.first = cut_signed(from, ANY_SIGNED);
        break;
    case STEPS:
    case WAVES: {
        head.table = cut(from, 4);
        Bytes step = head.table;
        uint32_t bits = cut_u32(&step);
        if (strcmp(entry->type->name, "float32") != 0 || bits < 0x00800000u || bits >= 0x7F800000u)
            refuse("multiples of no step, or as %s", entry->type->name);
        if (head.kind == WAVES)
            read_picture(from, entry, &head);
        break;
    }
    case TABLE: {
        uint64_t entries = cut_whole(from, MOST_TABLE);
        head.first = (int64_t)cut_whole(from, MOST_TABLE);
        head.table = cut(from, entries * (uint64_t)entry->type->size);
        break;
    }
    default:
        break;
    }
    return head;
}

/* float32 [elements]: level * step. */
static void put_steps(const Head *head, const int64_t *levels, uint8_t *elements, uint64_t count)
{
    Bytes from = head->table;
    uint32_t bits = cut_u32(&from);
    float step;
    memcpy(&step, &bits, sizeof step);
    for (uint64_t i = 0; i < count; i++) {
        if (levels[i] > 1 << 24 || levels[i] < -(1 << 24))
            refuse("a level in it has no float32");
        float value = (float)levels[i] * step;
        memcpy(&bits, &value, sizeof bits);
        if ((bits & 0x7F800000u) == 0x7F800000u)
            refuse("a multiple of a step in it is infinite");
        put_element(elements + 4 * i, bits, 4);
    }
}

/* The cosine of pi m / 2n. */
static double cosine(int m, int n)
{
    double sign = 1, x, term = 1, sum = 1;
    m %= 4 * n;
    if (m > 2 * n)
        m = 4 * n - m;
    if (m > n) {
        m = 2 * n - m;
        sign = -1;
    }
    x = 3.14159265358979323846 * m / (2.0 * n);
    for (int i = 1; i < 30; i += 2) {
        term *= -x * x / (i * (i + 1));
        sum += term;
    }
    return sign * sum;
}

static double root(double x)
{
    double guess = x > 1 ? x : 1;
    for (int i = 0; i < 60; i++)
        guess = (guess + x / guess) / 2;
    return guess;
}

/* [waves][places] of a length, in units of 2^-14. */
static void make_cosines(int length, int64_t made[LONGEST_WAVE][LONGEST_WAVE])
{
    for (int wave = 0; wave < length; wave++)
        for (int place = 0; place < length; place++) {
            double value = 16384 * root((wave == 0 ? 1.0 : 2.0) / length) * cosine((2 * place + 1) * wave, length);
            made[wave][place] = (int64_t)(value < 0 ? value - 0.5 : value + 0.5);
        }
}

/* float32 [elements]: sums of waves. Levels are overwritten. */
static void put_waves(const Head *head, int64_t *levels, uint8_t *elements, uint64_t count)
{
    static int64_t down[LONGEST_WAVE][LONGEST_WAVE], along[LONGEST_WAVE][LONGEST_WAVE];
    int64_t line[LONGEST_WAVE];
    int height = (int)head->height, width = (int)head->width;
    Bytes from = head->table;
    uint32_t bits = cut_u32(&from);
    float step;
    memcpy(&step, &bits, sizeof step);
    make_cosines(height, down);
    make_cosines(width, along);
    for (uint64_t i = 0; i < count; i++)
        if (levels[i] > LARGEST_WAVE || levels[i] < -LARGEST_WAVE)
            refuse("a level of its waves is too large");
    for (uint64_t first = 0; first < count; first += head->height * head->width) {
        int64_t *picture = levels + first;
        for (int k = 0; k < height; k++) {
            memset(line, 0, sizeof line);
            for (int wave = 0; wave < width; wave++)
                if (picture[k * width + wave] != 0)
                    for (int place = 0; place < width; place++)
                        line[place] += picture[k * width + wave] * along[wave][place];
            memcpy(picture + k * width, line, (size_t)width * sizeof *line);
        }
        for (int place = 0; place < width; place++) {
            memset(line, 0, sizeof line);
            for (int wave = 0; wave < height; wave++)
                if (picture[wave * width + place] != 0)
                    for (int k = 0; k < height; k++)
                        line[k] += picture[wave * width + place] * down[wave][k];
            for (int k = 0; k < height; k++)
                picture[k * width + place] = line[k];
        }
    }
    for (uint64_t i = 0; i < count; i++) {
        float value = (float)((double)levels[i] * ((double)step / 268435456.0));
        memcpy(&bits, &value, sizeof bits);
        if ((bits & 0x7F800000u) == 0x7F800000u)
            refuse("a sum of its waves is infinite");
        put_element(elements + 4 * i, bits, 4);
    }
}

/* Elements from levels; of a sparse tensor, 1 where a word will stand. */
static void put_levels(const Entry *entry, const Head *head, int64_t *levels, uint8_t *elements)
{
    int size = entry->type->size;
    if (head->kind == STEPS) {
        put_steps(head, levels, elements, entry->count);
        return;
    }
    if (head->kind == WAVES) {
        put_waves(head, levels, elements, entry->count);
        return;
    }
    uint64_t entries = (uint64_t)(head->table.end - head->table.at) / (uint64_t)size;
    for (uint64_t i = 0; i < entry->count; i++, elements += size) {
        int64_t value = levels[i] + head->first;
        if (head->kind == SPARSE) {
            put_element(elements, levels[i] != 0, size);
        } else if (head->kind == LEVELS) {
            if (value < entry->type->least || value > entry->type->most)
                refuse("its %s overflow", entry->type->name);
            put_element(elements, (uint64_t)value, size);
        } else {
            if (value < 0 || (uint64_t)value >= entries)
                refuse("it leaves its table");
            memcpy(elements, head->table.at + value * size, (size_t)size);
        }
    }
}

static void read_words(Bytes *from, const Entry *entry, int coder, uint8_t *elements, uint64_t count)
{
    if (coder == SMALL)
        read_small_words(from, elements, count, entry->type->size, entry->type->exponent);
    else
        read_fast_words(from, elements, count, entry->type->size);
}

static void read_sparse(Bytes *from, const Entry *entry, int coder, uint8_t *elements)
{
    static Room word_room;
    size_t size = (size_t)entry->type->size;
    uint64_t many = 0;
    for (uint64_t i = 0; i < entry->count; i++)
        many += elements[i * size];
    uint8_t *words = room(&word_room, many, size);
    read_words(from, entry, coder, words, many);
    for (uint64_t i = 0; i < entry->count; i++)
        if (elements[i * size]) {
            memcpy(elements + i * size, words, size);
            words += size;
        }
}

/* What of a tensor stands behind the levels of all. */
static void read_tail(Bytes *from, const Entry *entry, const Head *head, int coder, uint8_t *elements)
{
    int size = entry->type->size;
    switch (head->kind) {
    case RAMP:
        for (uint64_t i = 0; i < entry->count; i++)
            put_element(elements + i * (uint64_t)size, (uint64_t)head->first + i * (uint64_t)head->step, size);
        break;
    case SPARSE:
        read_sparse(from, entry, coder, elements);
        break;
    case WORDS:
        read_words(from, entry, coder, elements, entry->count);
        break;
    case RAW: {
        Bytes plain = cut(from, entry->count * (uint64_t)size);
        if (entry->count > 0)
            memcpy(elements, plain.at, (size_t)(plain.end - plain.at));
        break;
    }
    default:
        break;
    }
    if (entry->type->most == 1)
        for (uint64_t i = 0; i < entry->count; i++)
            if (elements[i] > 1)
                refuse("a tensor holds other than true and false");
}

static void read_all_levels(
    Bytes coded, const Entry *entries, const Head *heads, uint64_t many, int how, uint8_t *elements)
{
    Coder coder;
    int64_t slow = 0;
    if (how == SMALL) {
        start_levels();
        start_coder(&coder, coded);
    }
    for (uint64_t i = 0; i < many; i++) {
        const Entry *entry = &entries[i];
        if (has_levels(heads[i].kind)) {
            int64_t *levels = room(&level_room, entry->count, sizeof(int64_t));
            if (how == SMALL) {
                uint64_t rows = entry->count > 0, kernel = 1;
                if (entry->count > 0 && entry->dimensions > 1) {
                    rows = entry->sizes[0];
                    for (int k = 2; k < entry->dimensions; k++)
                        kernel *= entry->sizes[k];
                }
                if (heads[i].kind == WAVES)
                    kernel = heads[i].height * heads[i].width;
                read_matrix(&coder, levels, rows, rows > 0 ? entry->count / rows : 0, kernel, &slow);
            } else {
                read_fast(&coded, levels, entry->count);
            }
            put_levels(entry, &heads[i], levels, elements);
        }
        elements += entry->count * (uint64_t)entry->type->size;
    }
    if (how == FAST && coded.at != coded.end)
        refuse("bytes stand after its last matrix");
}

static Room head_room, element_room;

static Head *read_heads(Bytes *from, const Entry *entries, uint64_t many)
{
    Head *heads = room(&head_room, many, sizeof(Head));
    for (uint64_t i = 0; i < many; i++)
        heads[i] = read_head(from, &entries[i]);
    return heads;
}

/* The elements of a stream's tensors, one after another. */
static uint8_t *read_stream(Bytes data, const Entry *entries, uint64_t many, int coder)
{
    Head *heads = read_heads(&data, entries, many);
    uint64_t bytes = 0;
    int any = 0;
    for (uint64_t i = 0; i < many; i++) {
        bytes += entries[i].count * (uint64_t)entries[i].type->size;
        any |= has_levels(heads[i].kind);
    }
    uint8_t *elements = room(&element_room, bytes, 1), *at = elements;
    if (any)
        read_all_levels(cut(&data, cut_whole(&data, ANY_WHOLE)), entries, heads, many, coder, elements);
    for (uint64_t i = 0; i < many; i++) {
        read_tail(&data, &entries[i], &heads[i], coder, at);
        at += entries[i].count * (uint64_t)entries[i].type->size;
    }
    if (data.at != data.end)
        refuse("bytes stand after its last tensor");
    return elements;
}

/* ------------------------------------------------------------------------------------------- 1 and 2: the container */

static const uint64_t MOST_HEADER = (uint64_t)1 << 24;
static const uint64_t MOST_TEXT = (uint64_t)3 << 22;
static const uint64_t MOST_ELEMENTS = (uint64_t)1 << 48;

/* Bytes that a file of a size may become, and its coded text. */
static uint64_t most_unpacked(uint64_t size)
{
    return ((uint64_t)1 << 22) + 4096 * size;
}

static uint64_t most_text(uint64_t size)
{
    return ((uint64_t)1 << 16) + 256 * size;
}

typedef struct {
    uint64_t entries, size;
    uint32_t crc;
    int coder;
} Stream;

typedef struct {
    FILE *file;
    Bytes text, document;
    Entry *entries;
    Stream *streams;
    uint64_t many_entries, many_streams;
} Network;

static Room header_room, text_room, entry_room, stream_room, data_room;

static void check_utf8(Bytes text)
{
    while (text.at < text.end) {
        unsigned byte = *text.at++;
        int more = byte < 0x80 ? 0 : byte >= 0xC2 && byte < 0xE0 ? 1 : byte >= 0xE0 && byte < 0xF0 ? 2
                   : byte >= 0xF0 && byte < 0xF5 ? 3 : -1;
        if (more < 0 || text.end - text.at < more)
            refuse("its header is no text");
        for (int i = 0; i < more; i++) {
            unsigned next = *text.at++;
            unsigned least = i > 0 ? 0x80 : byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
            unsigned most = i > 0 ? 0xBF : byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
            if (next < least || next > most)
                refuse("its header is no text");
        }
    }
}

static int is(Bytes text, const char *word)
{
    return (size_t)(text.end - text.at) == strlen(word) && memcmp(text.at, word, strlen(word)) == 0;
}

/* What stands behind the last space, which is cut off with it. */
static Bytes last_word(Bytes *line)
{
    const uint8_t *at = line->end;
    while (at > line->at && at[-1] != ' ')
        at--;
    Bytes word = {at, line->end};
    if (at == line->at)
        refuse("it lists a tensor without a name, a type or sizes");
    line->end = at - 1;
    return word;
}

static void read_sizes(Bytes text, Entry *entry)
{
    uint64_t product = 1;
    entry->count = 1;
    entry->dimensions = 0;
    while (text.at < text.end) {
        uint64_t size = 0;
        int digits = 0, zero = *text.at == '0';
        for (; text.at < text.end && *text.at >= '0' && *text.at <= '9'; digits++, text.at++)
            size = digits < 10 ? 10 * size + (uint64_t)(*text.at - '0') : size;
        if (digits == 0 || digits > 10 || (zero && digits > 1) || entry->dimensions == MOST_DIMENSIONS)
            refuse("it lists a tensor of unknown sizes");
        if (size > 0 && product > MOST_ELEMENTS / size)
            refuse("it lists a tensor that is too large");
        product *= size > 0 ? size : 1;
        entry->count *= size;
        entry->sizes[entry->dimensions++] = size;
        if (text.at < text.end && (*text.at++ != ',' || text.at == text.end))
            refuse("it lists a tensor of unknown sizes");
    }
}

static void read_entry(Bytes line, Entry *entry)
{
    Bytes sizes = last_word(&line), type = last_word(&line);
    entry->name = line;
    entry->type = NULL;
    for (size_t i = 0; i < sizeof TYPES / sizeof TYPES[0]; i++)
        if (is(type, TYPES[i].name))
            entry->type = &TYPES[i];
    if (entry->type == NULL)
        refuse("it lists a tensor of an unknown type");
    if (line.at == line.end || is(line, "__metadata__"))
        refuse("it lists a tensor without a name, or with one that is taken");
    read_sizes(sizes, entry);
}

static int by_name(const void *left, const void *right)
{
    const Bytes *a = &(*(const Entry *const *)left)->name, *b = &(*(const Entry *const *)right)->name;
    size_t a_size = (size_t)(a->end - a->at), b_size = (size_t)(b->end - b->at);
    int order = memcmp(a->at, b->at, a_size < b_size ? a_size : b_size);
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

static void check_names(const Entry *entries, uint64_t many)
{
    static Room sorted_room;
    const Entry **sorted = room(&sorted_room, many, sizeof(Entry *));
    for (uint64_t i = 0; i < many; i++)
        sorted[i] = &entries[i];
    qsort(sorted, (size_t)many, sizeof(Entry *), by_name);
    for (uint64_t i = 1; i < many; i++)
        if (by_name(&sorted[i - 1], &sorted[i]) == 0)
            refuse("two of its tensors have one name");
}

/* The lines up to the first empty one list tensors; the document follows. */
static void read_listing(Network *network, uint64_t most_bytes)
{
    Bytes rest = network->text;
    uint64_t many = 0, unpacked = 0;
    Entry *entries = room(&entry_room, network->many_entries, sizeof(Entry));
    for (;;) {
        const uint8_t *end = rest.at < rest.end ? memchr(rest.at, '\n', (size_t)(rest.end - rest.at)) : NULL;
        if (end == NULL)
            refuse("its list of tensors does not end");
        Bytes line = {rest.at, end};
        rest.at = end + 1;
        if (line.at == line.end)
            break;
        if (many == network->many_entries)
            refuse("its streams do not hold the tensors that it lists");
        Entry *entry = &entries[many++];
        read_entry(line, entry);
        if (entry->count > most_bytes || (unpacked += entry->count * (uint64_t)entry->type->size) > most_bytes)
            refuse("it would become more than %llu bytes", (unsigned long long)most_bytes);
    }
    if (many != network->many_entries)
        refuse("its streams do not hold the tensors that it lists");
    network->document = rest;
    network->entries = entries;
}

/* Everything is read once for the checksum; returns the file's size. */
static uint64_t check_file(FILE *file)
{
    static uint8_t chunk[1 << 16];
    size_t count = fread(chunk, 1, 8, file);
    if (count < 3 || memcmp(chunk, "PLT", 3) != 0)
        refuse("it is no .plt file");
    if (count < 8)
        refuse("its checksum does not fit");
    if (chunk[3] != 1)
        refuse("it has format %u, this decoder reads 1", (unsigned)chunk[3]);
    Bytes stored = {chunk + 4, chunk + 8};
    uint32_t crc = 0, expected = cut_u32(&stored);
    uint64_t size = 8;
    while ((count = fread(chunk, 1, sizeof chunk, file)) > 0) {
        crc = crc_of(crc, chunk, count);
        size += count;
    }
    if (ferror(file))
        refuse("it cannot be read");
    if (crc != expected)
        refuse("its checksum does not fit");
    return size;
}

static void read_network(Network *network)
{
    uint64_t size = check_file(network->file);
    size_t held = (size_t)(size - 8 < MOST_HEADER ? size - 8 : MOST_HEADER);
    uint8_t *start = room(&header_room, held, 1);
    if (fseek(network->file, 8, SEEK_SET) != 0 || fread(start, 1, held, network->file) != held)
        refuse("it cannot be read");
    Bytes head = {start, start + held};
    uint64_t length = cut_whole(&head, MOST_TEXT), coded = cut_whole(&head, MOST_HEADER);
    if (length > most_text(coded))
        refuse("%llu bytes of header would become %llu", (unsigned long long)coded, (unsigned long long)length);
    network->many_streams = cut_whole(&head, MOST_ENTRIES);
    network->many_entries = 0;
    network->streams = room(&stream_room, network->many_streams, sizeof(Stream));
    uint64_t together = 0;
    for (uint64_t i = 0; i < network->many_streams; i++) {
        Stream *stream = &network->streams[i];
        stream->entries = cut_whole(&head, MOST_ENTRIES);
        stream->coder = (int)cut_byte(&head);
        stream->size = cut_whole(&head, size);
        stream->crc = cut_u32(&head);
        together += stream->size;
        network->many_entries += stream->entries;
        if (stream->coder >= CODERS)
            refuse("unknown coder %d", stream->coder);
        if (together > size || network->many_entries > MOST_ENTRIES)
            refuse("its streams are longer, or hold more, than it can");
    }
    Bytes text = cut(&head, coded);
    network->text.at = read_text(&text_room, text, (size_t)length);
    network->text.end = network->text.at + length;
    check_utf8(network->text);
    read_listing(network, most_unpacked(size));
    check_names(network->entries, network->many_entries);
    uint64_t begin = 8 + (uint64_t)(head.at - start);
    if (begin + together > size)
        refuse("its streams are longer than it is");
    if (fseek(network->file, (long)begin, SEEK_SET) != 0)
        refuse("it cannot be read");
}

static Bytes next_stream(Network *network, const Stream *stream)
{
    uint8_t *data = room(&data_room, stream->size, 1);
    if (fread(data, 1, (size_t)stream->size, network->file) != stream->size)
        refuse("it cannot be read");
    if (crc_of(0, data, (size_t)stream->size) != stream->crc)
        refuse("a stream's checksum does not fit");
    return (Bytes){data, data + stream->size};
}

/* ---------------------------------------------------------------------------------------------- what is made of it */

typedef struct {
    FILE *file;
    const char *path;
    uint64_t data; /* where elements begin */
} Output;

static void put_text(FILE *file, Bytes text)
{
    for (; text.at < text.end; text.at++) {
        if (*text.at == '"' || *text.at == '\\')
            fputc('\\', file);
        if (*text.at < 32)
            fprintf(file, "\\u%04x", (unsigned)*text.at);
        else
            fputc(*text.at, file);
    }
}

/* The header of a safetensors file. Larger elements come first, so that all lie at multiples of their size. */
static void put_header(Network *network, Output *output)
{
    FILE *file = output->file;
    uint64_t at = 0;
    fwrite("\0\0\0\0\0\0\0\0", 1, 8, file);
    fputs("{\"__metadata__\":{\"packlight\":\"", file);
    put_text(file, network->document);
    fputs("\"}", file);
    for (int size = 8; size > 0; size /= 2)
        for (uint64_t i = 0; i < network->many_entries; i++) {
            Entry *entry = &network->entries[i];
            if (entry->type->size != size)
                continue;
            entry->offset = at;
            at += entry->count * (uint64_t)size;
            fputs(",\"", file);
            put_text(file, entry->name);
            fprintf(file, "\":{\"dtype\":\"%s\",\"shape\":[", entry->type->stored);
            for (int k = 0; k < entry->dimensions; k++)
                fprintf(file, k > 0 ? ",%llu" : "%llu", (unsigned long long)entry->sizes[k]);
            fprintf(file, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)entry->offset, (unsigned long long)at);
        }
    fputc('}', file);
    long end = ftell(file);
    for (; end > 0 && end % 8 != 0; end++)
        fputc(' ', file);
    if (end < 0 || at > (uint64_t)LONG_MAX - (uint64_t)end || fseek(file, 0, SEEK_SET) != 0)
        refuse("%s cannot be written", output->path);
    output->data = (uint64_t)end;
    uint8_t length[8];
    put_element(length, output->data - 8, 8);
    fwrite(length, 1, 8, file);
}

static void put_elements(const Output *output, const Entry *entry, const uint8_t *elements)
{
    size_t bytes = (size_t)entry->count * (size_t)entry->type->size;
    if (fseek(output->file, (long)(output->data + entry->offset), SEEK_SET) != 0
        || fwrite(elements, 1, bytes, output->file) != bytes)
        refuse("%s cannot be written", output->path);
}

/* All streams. output: where elements go, or NULL; returns the CRC-32 of the text and all elements. */
static uint32_t unpack(Network *network, const Output *output)
{
    uint32_t crc = crc_of(0, network->text.at, (size_t)(network->text.end - network->text.at));
    Entry *entry = network->entries;
    for (uint64_t i = 0; i < network->many_streams; i++) {
        const Stream *stream = &network->streams[i];
        const uint8_t *elements = read_stream(next_stream(network, stream), entry, stream->entries, stream->coder);
        for (Entry *end = entry + stream->entries; entry < end; entry++) {
            if (output != NULL)
                put_elements(output, entry, elements);
            crc = crc_of(crc, elements, (size_t)entry->count * (size_t)entry->type->size);
            elements += entry->count * (uint64_t)entry->type->size;
        }
    }
    return crc;
}

static void print_list(Network *network)
{
    const Entry *entry = network->entries;
    for (uint64_t i = 0; i < network->many_streams; i++) {
        const Stream *stream = &network->streams[i];
        Bytes data = next_stream(network, stream);
        const Head *heads = read_heads(&data, entry, stream->entries);
        for (uint64_t k = 0; k < stream->entries; k++, entry++) {
            fwrite(entry->name.at, 1, (size_t)(entry->name.end - entry->name.at), stdout);
            printf("\t%s\t", entry->type->name);
            for (int d = 0; d < entry->dimensions; d++)
                printf(d > 0 ? ",%llu" : "%llu", (unsigned long long)entry->sizes[d]);
            printf("\t%s\t%s\n", KIND_NAMES[heads[k].kind], CODER_NAMES[stream->coder]);
        }
    }
}

enum { UNPACK, LIST, CHECK };

static Network network;
static Output output;

static void do_file(int what)
{
    read_network(&network);
    if (what == LIST) {
        print_list(&network);
    } else if (what == CHECK) {
        uint32_t crc = unpack(&network, NULL);
        printf("ok %llu %08lx\n", (unsigned long long)network.many_entries, (unsigned long)crc);
    } else {
        put_header(&network, &output);
        unpack(&network, &output);
        if (fflush(output.file) != 0 || ferror(output.file))
            refuse("%s cannot be written", output.path);
    }
}

/* Whether it went well; where not, `reason` says why. */
static int run(int what, const char *path)
{
    network.file = fopen(path, "rb");
    if (network.file == NULL) {
        strcpy(reason, "it cannot be opened");
        return 0;
    }
    int well = 0;
    if (setjmp(refused) == 0) {
        do_file(what);
        well = 1;
    } else {
        well = 0;
    }
    fclose(network.file);
    return well;
}

/* The file appears whole or not at all. */
static int run_unpack(const char *path, const char *to)
{
    char *part = malloc(strlen(to) + 6);
    if (part == NULL)
        return 0;
    strcpy(part, to);
    strcat(part, ".part");
    output.path = to;
    output.file = fopen(part, "wb");
    int well = output.file != NULL && run(UNPACK, path);
    if (output.file == NULL)
        snprintf(reason, sizeof reason, "%.200s cannot be written", to);
    else if (fclose(output.file) != 0 || (well && rename(part, to) != 0)) {
        well = 0;
        snprintf(reason, sizeof reason, "%.200s cannot be written", to);
    }
    if (!well && output.file != NULL)
        remove(part);
    free(part);
    return well;
}

int main(int count, char **words)
{
    make_crc_table();
    make_mixing_tables();
    if (count > 2 && strcmp(words[1], "--check") == 0) {
        int all = 1;
        for (int i = 2; i < count; i++)
            if (!run(CHECK, words[i])) {
                printf("bad %s\n", reason);
                all = 0;
            }
        return all ? 0 : 2;
    }
    if (count != 3) {
        fprintf(stderr, "plt IN.plt OUT.plm | plt --list IN.plt | plt --check IN.plt...\n");
        return 2;
    }
    int listed = strcmp(words[1], "--list") == 0;
    const char *path = listed ? words[2] : words[1];
    if (listed ? run(LIST, path) : run_unpack(path, words[2]))
        return 0;
    fprintf(stderr, "%s: %s\n", path, reason);
    return 2;
}
