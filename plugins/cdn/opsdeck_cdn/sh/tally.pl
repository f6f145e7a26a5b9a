# Sum up what was logged since the last time. On standard input: folder, inode and offset of the last time, most bytes.
# Prints `sum HOUR HOST CACHE CLASS REQUESTS BYTES` lines, then `at INODE OFFSET`. Quotes inside of JSON's strings are
# escaped, so a visitor cannot write a field.
use strict;
use warnings;
my ($folder, $inode, $offset, $most) = map { my $line = <STDIN>; chomp $line; $line } 1 .. 4;
my %sums;

sub tally {
    my ($path, $from) = @_;
    open(my $file, '<:raw', $path) or return $from;
    seek($file, $from, 0);
    while ($most > 0 && defined(my $line = <$file>)) {
        last unless $line =~ /\n\z/;
        $from += length $line;
        $most -= length $line;
        next unless $line =~ /"ts":(\d+)/;
        my $hour = int($1 / 3600) * 3600;
        next unless $line =~ /"host":"([A-Za-z0-9.:-]{1,260})"/;
        my $host = lc $1;
        next unless $line =~ /"size":(\d+),"status":(\d)\d\d,/;
        my ($bytes, $class) = ($1, $2);
        my $at = rindex($line, '"resp_headers":{');
        my $cache = $at >= 0 && substr($line, $at) =~ /"X-Cache":\["([A-Z]{3,12})"\]/ ? $1 : 'NONE';
        my $sum = $sums{"$hour $host $cache $class"} ||= [0, 0];
        $sum->[0]++;
        $sum->[1] += $bytes;
    }
    close($file);
    return $from;
}

my $current = "$folder/edge.json";
my @now = stat $current;
if (!@now) { print "at 0 0\n"; exit 0 }
if ($inode != $now[1]) {
    if ($inode) {
        for my $old (sort glob("$folder/edge-*.json")) {
            my @was = stat $old;
            tally($old, $offset) if @was && $was[1] == $inode;
        }
    }
    $offset = 0;
}
$offset = 0 if $offset > $now[7];
$offset = tally($current, $offset);
print "sum $_ $sums{$_}[0] $sums{$_}[1]\n" for sort keys %sums;
print "at $now[1] $offset\n";
