/* test_list.c: a list against an array that is searched from end to end. */
#include "native.h"
#include "memory/list.h"

#define COUNT 12

struct model {
    uint32_t members[COUNT];
    uint32_t count;
};

static uint32_t model_at(const struct model *model, uint32_t index)
{
    for (uint32_t i = 0; i < model->count; i++)
        if (model->members[i] == index)
            return i;
    return RU_NONE;
}

static void model_remove(struct model *model, uint32_t at)
{
    for (model->count--; at < model->count; at++)
        model->members[at] = model->members[at + 1];
}

static void expect_same(const struct ru_list *list, const struct ru_link *links,
                        const struct model *model)
{
    uint32_t index = list->first;
    EXPECT_EQUAL(ru_list_check(list, links, COUNT), model->count);
    EXPECT_EQUAL(ru_list_is_empty(list), model->count == 0);
    for (uint32_t i = 0; i < model->count; i++, index = links[index].next)
        EXPECT_EQUAL(index, model->members[i]);
}

static void test_random_appends_and_removals(void)
{
    struct ru_random random = {native_seed()};
    struct ru_link links[COUNT];
    struct ru_list list = RU_LIST_EMPTY;
    struct model model = {.count = 0};
    for (uint32_t step = 0; step < 20000; step++) {
        uint32_t index = native_below(&random, COUNT), at = model_at(&model, index);
        if (at == RU_NONE) {
            ru_list_append(&list, links, index);
            model.members[model.count++] = index;
        } else {
            ru_list_remove(&list, links, index);
            model_remove(&model, at);
        }
        expect_same(&list, links, &model);
    }
}

static void test_powers_of_two(void)
{
    EXPECT_EQUAL(ru_number_power_of_two(0), 1);
    EXPECT_EQUAL(ru_number_power_of_two(1), 1);
    EXPECT_EQUAL(ru_number_power_of_two(4096), 4096);
    EXPECT_EQUAL(ru_number_power_of_two(4097), 8192);
    EXPECT(!ru_number_is_power_of_two(0) && ru_number_is_power_of_two(1));
    EXPECT(!ru_number_is_power_of_two(6) && ru_number_is_power_of_two(1U << 31));
}

int main(void)
{
    RUN(test_random_appends_and_removals);
    RUN(test_powers_of_two);
    return native_finish();
}
