/* A libcusparse.so.12 of matrices' descriptions alone; see plain_cublas.c. */
#include <stdlib.h>

struct description {
    int magic, type;
};

int cusparseCreateMatDescr(struct description** d) {
    *d = calloc(1, sizeof **d);
    (*d)->magic = 31;
    return 0;
}
int cusparseDestroyMatDescr(struct description* d) {
    free(d);
    return 0;
}
int cusparseSetMatType(struct description* d, int type) {
    d->type = type;
    return 0;
}
