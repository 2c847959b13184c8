setopt aliases interactive_comments
__sandbar_status=0
__sandbar_set() { return "$1"; }
while IFS= read -r -d $'\0' -u 3 __sandbar_code; do
  __sandbar_set "$__sandbar_status"
  eval "$__sandbar_code" 3<&- 4>&-
  __sandbar_status=$?
  printf . >&4
done
