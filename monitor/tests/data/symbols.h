extern volatile int word;
static inline int twice(int value)
{
    if (value > 1000)
        word = 0;
    return value + value;
}
