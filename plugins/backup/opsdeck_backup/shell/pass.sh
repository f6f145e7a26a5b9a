# Pass standard input on to standard output and to each further file. Arguments: a file that is told how many bytes it
# was and the last of them in hexadecimal, how many of these, what to say every ten seconds while something moves ("" is
# silent), further files. One process that takes large blocks through wide pipes: `tee` moves 8 KiB at a time, and a
# stream waits for it.
pass() {
  perl -e '
    use strict;
    use Errno "EINTR";
    my ($told, $keep, $say, @further) = @ARGV;
    my @out = \*STDOUT;
    for (@further) { open my $file, ">", $_ or die "$_: $!\n"; push @out, $file }
    fcntl $_, 1031, 1 << 20 for \*STDIN, @out;    # F_SETPIPE_SZ of fcntl(2); a narrow pipe does too
    my ($bytes, $tail, $next) = (0, "", time + 10);
    while (1) {
      my $got = sysread STDIN, my $block, 1 << 20;
      if (!defined $got) { next if $! == EINTR; die "reading: $!\n" }
      last unless $got;
      $bytes += $got;
      $tail = $got < $keep ? $tail . $block : $block;
      $tail = substr $tail, length($tail) - $keep if length $tail > $keep;
      if ($say ne "" && time >= $next) { print STDERR $bytes >> 20, " MiB $say\n"; $next = time + 10 }
      for my $file (@out) {
        my $at = 0;
        while ($at < $got) {
          my $sent = syswrite $file, $block, $got - $at, $at;
          if (!defined $sent) { next if $! == EINTR; die "writing: $!\n" }
          $at += $sent;
        }
      }
    }
    close $_ or die "closing: $!\n" for @out;
    open my $file, ">", $told or die "$told: $!\n";
    print $file "$bytes ", unpack("H*", $tail), "\n";
    close $file or die "$told: $!\n";
  ' "$@"
}
