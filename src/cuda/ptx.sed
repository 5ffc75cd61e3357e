# SPDX-License-Identifier: Apache-2.0
# Makes a C string of PTX. Comments stay behind; the first line is one.
1c\
extern const char kvx_cuda_ptx[];\
const char kvx_cuda_ptx[] =
/^[[:space:]]*\/\//d
s/["\\]/\\&/g
s/.*/"&\\n"/
$s/$/;/
