__sandbar_status=0
__sandbar_set() { return "$1"; }
while read -r __sandbar_lines <&3; do
  __sandbar_code=
  while [ "$__sandbar_lines" -gt 0 ]; do
    IFS= read -r __sandbar_line <&3
    __sandbar_code="$__sandbar_code$__sandbar_line
"
    __sandbar_lines=$((__sandbar_lines - 1))
  done
  __sandbar_set "$__sandbar_status"
  eval "$__sandbar_code" 3<&- 4>&-
  __sandbar_status=$?
  printf . >&4
done
